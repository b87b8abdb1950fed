/* Exponentials of float32, eight at a time. */

#pragma once

#include "bfloat16.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define LOG2_E 1.44269504f

/* 2 to the power of x, for x of at most 0; what is not a number stays so.

   The whole part becomes the exponent (Cody and Waite 1980); 2 to the rest, in [-1/2, 1/2], is a
   polynomial fitted for the least relative error, 2e-9 (Lawson 1961). With rounding: 1e-7. */
INLINE __m256 exp2_lanes(__m256 x) {
    static const float terms[] = {1.53533620e-4f, 1.33988750e-3f, 9.61843692e-3f, 5.55033237e-2f,
                                  2.40226477e-1f, 6.93147182e-1f, 1.0f};
    x = _mm256_max_ps(_mm256_set1_ps(-127.0f), x); /* of which the exponent's bits are 0 */
    __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 rest = _mm256_sub_ps(x, whole), power = _mm256_set1_ps(terms[0]);
    for (int i = 1; i < 7; i++) power = _mm256_fmadd_ps(power, rest, _mm256_set1_ps(terms[i]));
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    return _mm256_mul_ps(power, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

#endif
