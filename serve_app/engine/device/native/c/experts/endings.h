/* What becomes of the sums of a piece of a linear layer: see parts.c.

   All is rounded to bfloat16 where a module in bfloat16 rounds: what the layer gives, and what
   each operation after it gives. */

#pragma once

#include "../exponential.h"
#include "shelves.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define EIGHT 8

/* The sums of some lines. They may be read up to a pair of EIGHT behind their end. */
typedef struct {
    const float *sums; /* by pair, then by line */
    int64_t first, end; /* neurons */
} Sums;

INLINE void put(__m256 values, uint16_t *out, int64_t num) {
    uint16_t rest[EIGHT];
    __m128i rounded = rounded_eight(values);
    if (num >= EIGHT) {
        _mm_storeu_si128((__m128i *)out, rounded);
        return;
    }
    _mm_storeu_si128((__m128i *)rest, rounded);
    memcpy(out, rest, (size_t)num * sizeof *out);
}

/* Each pair's by themselves. */
AVX2 static void put_pairs(const Work *work, const Sums *found) {
    for (int64_t pair = 0; pair < work->call->num_pairs; pair++) {
        const float *sums = found->sums + pair * work->sums_of_pair;
        uint16_t *out = work->out + pair * work->num_neurons;
        for (int64_t line = found->first; line < found->end; line += EIGHT)
            put(_mm256_loadu_ps(sums + line - found->first), out + line, found->end - line);
    }
}

/* Every second of 16, from the first or the second on. */
INLINE __m256 alternate(const float *sums, int second) {
    __m256 low = _mm256_loadu_ps(sums), high = _mm256_loadu_ps(sums + EIGHT);
    __m256 mixed = second ? _mm256_shuffle_ps(low, high, 0xdd) : _mm256_shuffle_ps(low, high, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}

INLINE __m256 gated(const Gate *gate, __m256 through, __m256 up) {
    const __m256 limit = _mm256_set1_ps((float)gate->limit), one = _mm256_set1_ps(1);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    through = _mm256_min_ps(limit, rounded_lanes(through));
    up = _mm256_max_ps(_mm256_xor_ps(sign, limit), _mm256_min_ps(limit, rounded_lanes(up)));
    __m256 size = _mm256_mul_ps(through, _mm256_set1_ps((float)gate->slope));
    /* With e = exp(-|size|), 1 / (1 + exp(-size)) is 1 / (1 + e), or e / (1 + e) below 0. */
    __m256 power = _mm256_mul_ps(_mm256_or_ps(sign, size), _mm256_set1_ps(LOG2_E));
    __m256 e = exp2_lanes(power);
    __m256 share = _mm256_div_ps(_mm256_blendv_ps(one, e, size), _mm256_add_ps(one, e));
    __m256 raised = rounded_lanes(_mm256_add_ps(up, _mm256_set1_ps((float)gate->shift)));
    return _mm256_mul_ps(raised, rounded_lanes(_mm256_mul_ps(through, share)));
}

AVX2 static void put_gated(const Work *work, const Sums *found) {
    for (int64_t pair = 0; pair < work->call->num_pairs; pair++) {
        const float *sums = found->sums + pair * work->sums_of_pair;
        uint16_t *out = work->out + pair * work->num_neurons;
        for (int64_t neuron = found->first; neuron < found->end; neuron += EIGHT) {
            const float *own = sums + neuron - found->first;
            __m256 through = _mm256_loadu_ps(own);
            __m256 up = _mm256_loadu_ps(own + found->end - found->first);
            if (work->gate->by_turns) {
                own += neuron - found->first;
                through = alternate(own, 0);
                up = alternate(own, 1);
            }
            put(gated(work->gate, through, up), out + neuron, found->end - neuron);
        }
    }
}

/* The weighted sum over the pairs of each row. */
AVX2 static void put_weighted(const Work *work, const Sums *found) {
    const Call *call = work->call;
    const uint16_t *narrow = call->weights;
    const float *wide = call->weights;
    for (int64_t row = 0; row < call->num_pairs / call->pairs_of_row; row++) {
        uint16_t *out = work->out + row * work->num_neurons;
        for (int64_t line = found->first; line < found->end; line += EIGHT) {
            __m256 total = _mm256_setzero_ps();
            for (int64_t pair = row * call->pairs_of_row; pair < (row + 1) * call->pairs_of_row; pair++) {
                const float *sums = found->sums + pair * work->sums_of_pair + line - found->first;
                float weight = call->has_wide_weights ? wide[pair] : widened(narrow[pair]);
                __m256 own = _mm256_mul_ps(rounded_lanes(_mm256_loadu_ps(sums)),
                                           _mm256_set1_ps(weight));
                if (!call->has_wide_weights) own = rounded_lanes(own);
                total = _mm256_add_ps(total, own);
            }
            put(total, out + line, found->end - line);
        }
    }
}
#endif
