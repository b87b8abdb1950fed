/* Numbers of bfloat16 as AVX2 computes with them: widened to float32, and rounded again. */

#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma")))
#define INLINE AVX2 static inline __attribute__((always_inline))
#define PAIR 16 /* numbers that two registers hold, once widened */

/* Of PAIR numbers those of even place, and those of odd place: one instruction for each. */
INLINE __m256 widened_even(const uint16_t *numbers) {
    __m256i pairs = _mm256_loadu_si256((const __m256i *)numbers);
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}

INLINE __m256 widened_odd(const uint16_t *numbers) {
    __m256i pairs = _mm256_loadu_si256((const __m256i *)numbers);
    static const uint32_t upper[8] __attribute__((aligned(32))) = {
        0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
        0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
    /* From memory each time: a register for it is one that sums would have to leave. */
    __asm__("vpand %1, %0, %0" : "+x"(pairs) : "m"(upper));
    return _mm256_castsi256_ps(pairs);
}

INLINE float widened(uint16_t number) {
    uint32_t bits = (uint32_t)number << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest, ties to even; what is not a number stays so. Compilers do several at a time. */
INLINE uint16_t rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t up = bits + 0x7fff + (bits >> 16 & 1);
    return (uint16_t)((value != value ? bits | 0x400000 : up) >> 16);
}

INLINE __m128 widened_four(const uint16_t *numbers) {
    __m128i four = _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)numbers));
    return _mm_castsi128_ps(_mm_slli_epi32(four, 16));
}

/* Compilers that choose the instruction's form themselves run out of registers for sums. */
INLINE void add_product(__m256 *sum, __m256 a, __m256 b) {
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b));
}

/* As `rounded`. */
INLINE void rounded_four(__m128 values, uint16_t *numbers) {
    __m128i bits = _mm_castps_si128(values);
    __m128i last = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
    __m128i up = _mm_add_epi32(bits, _mm_add_epi32(last, _mm_set1_epi32(0x7fff)));
    __m128i nan = _mm_or_si128(bits, _mm_set1_epi32(0x400000));
    __m128i is_nan = _mm_castps_si128(_mm_cmpunord_ps(values, values));
    __m128i found = _mm_srli_epi32(_mm_blendv_epi8(up, nan, is_nan), 16);
    _mm_storel_epi64((__m128i *)numbers, _mm_packus_epi32(found, found));
}

/* As rounded_four, and widened again. */
INLINE __m256 rounded_lanes(__m256 values) {
    __m256i bits = _mm256_castps_si256(values);
    __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
    __m256i found = _mm256_blendv_epi8(up, nan, is_nan);
    return _mm256_castsi256_ps(_mm256_and_si256(found, _mm256_set1_epi32((int)0xffff0000)));
}

/* As rounded_four, of eight. */
INLINE __m128i rounded_eight(__m256 values) {
    __m256i found = _mm256_srli_epi32(_mm256_castps_si256(rounded_lanes(values)), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1));
}

/* PAIR numbers, of which those of even place and those of odd place are given. */
INLINE void rounded_pair(__m256 even, __m256 odd, uint16_t *numbers) {
    uint16_t evens[8], odds[8];
    rounded_four(_mm256_castps256_ps128(even), evens);
    rounded_four(_mm256_extractf128_ps(even, 1), evens + 4);
    rounded_four(_mm256_castps256_ps128(odd), odds);
    rounded_four(_mm256_extractf128_ps(odd, 1), odds + 4);
    __m128i e = _mm_loadu_si128((const __m128i *)evens);
    __m128i o = _mm_loadu_si128((const __m128i *)odds);
    _mm_storeu_si128((__m128i *)numbers, _mm_unpacklo_epi16(e, o));
    _mm_storeu_si128((__m128i *)(numbers + 8), _mm_unpackhi_epi16(e, o));
}

/* The sum of the lanes of each of four. */
INLINE __m128 totals(const __m256 four[4]) {
    __m256 first = _mm256_hadd_ps(four[0], four[1]);
    __m256 both = _mm256_hadd_ps(first, _mm256_hadd_ps(four[2], four[3]));
    return _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
}

#endif
