/* Attention of few rows: lanes are numbers of a head. */

#pragma once

#include "rows.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define AHEAD 8             /* keys that are fetched ahead */

/* Rows of one head of keys, and what each has come to. */
typedef struct {
    float *query;  /* FEW times key_dim */
    float *sums;   /* FEW times value_dim */
    float *scores; /* FEW times KEYS */
    float greatest[FEW], sum[FEW], lower[FEW];
} Few;

/* Scores of as many keys as there are registers for; those from `num` on are the last one again. */
INLINE void few_scores(const Call *call, const Few *few, int64_t head, const int64_t *places,
                       int64_t k, int64_t num, const int ROWS, const int is_bfloat16) {
    const int EACH = 8 / ROWS;
    int64_t dim = call->key_dim, whole = dim / PAIR * PAIR, at[8];
    __m256 sums[8];
    float found[8];
    for (int i = 0; i < 8; i++) sums[i] = _mm256_setzero_ps();
    for (int j = 0; j < EACH; j++) at[j] = (places[at_most(k + j, num - 1)] + head) * dim;
    for (int64_t d = 0; d < whole; d += PAIR)
        for (int half = 0; half < 2; half++)
            for (int j = 0; j < EACH; j++) {
                __m256 key = half_at(call->keys, at[j] + d, half, is_bfloat16);
                for (int r = 0; r < ROWS; r++) {
                    __m256 query = _mm256_loadu_ps(few->query + r * dim + d + half * LANES);
                    add_product(&sums[r * EACH + j], key, query);
                }
            }
    _mm_storeu_ps(found, totals(sums));
    _mm_storeu_ps(found + 4, totals(sums + 4));
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < EACH; j++) {
            float score = found[r * EACH + j];
            for (int64_t d = whole; d < dim; d++)
                score += few->query[r * dim + d] * number_at(call->keys, at[j] + d, is_bfloat16);
            few->scores[r * KEYS + k + j] = score;
        }
}

/* Adds values weighed by scores, REGISTERS registers of numbers of a head, to lowered sums. */
INLINE void few_values(const Call *call, const Few *few, int64_t head, const int64_t *places,
                       int64_t num, int64_t d, const int ROWS, const int REGISTERS,
                       const int is_bfloat16) {
    int64_t dim = call->value_dim;
    __m256 own[FEW][8];
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < REGISTERS; i++)
            own[r][i] = _mm256_mul_ps(_mm256_loadu_ps(few->sums + r * dim + d + i * LANES),
                                      _mm256_set1_ps(few->lower[r]));
    for (int64_t k = 0; k < num; k++)
        for (int i = 0; i < REGISTERS; i++) {
            int64_t at = (places[k] + head) * dim + d + i / 2 * PAIR;
            __m256 value = half_at(call->values, at, i % 2, is_bfloat16);
            for (int r = 0; r < ROWS; r++) {
                __m256 weight = _mm256_broadcast_ss(few->scores + r * KEYS + k);
                add_product(&own[r][i], weight, value);
            }
        }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < REGISTERS; i++)
            _mm256_storeu_ps(few->sums + r * dim + d + i * LANES, own[r][i]);
}

INLINE void few_values_all(const Call *call, const Few *few, int64_t head, const int64_t *places,
                           int64_t num, const int ROWS, const int is_bfloat16) {
    const int REGISTERS = 8 / ROWS;
    int64_t d = 0, dim = call->value_dim;
    for (; d + REGISTERS * LANES <= dim; d += REGISTERS * LANES)
        few_values(call, few, head, places, num, d, ROWS, REGISTERS, is_bfloat16);
    for (; d + PAIR <= dim; d += PAIR)
        few_values(call, few, head, places, num, d, ROWS, 2, is_bfloat16);
    for (; d < dim; d++)
        for (int r = 0; r < ROWS; r++) {
            float own = few->sums[r * dim + d] * few->lower[r];
            for (int64_t k = 0; k < num; k++)
                own += few->scores[r * KEYS + k] *
                       number_at(call->values, (places[k] + head) * dim + d, is_bfloat16);
            few->sums[r * dim + d] = own;
        }
}

/* Turns a row's scores of keys at positions from `first` on into weights, and says by what factor
   its sums must be lowered. */
INLINE void few_weights(const Tile *tile, Few *few, int r, int64_t first, int64_t num) {
    float *scores = few->scores + r * KEYS, softcap = tile->call->softcap;
    int64_t whole = (num + LANES - 1) / LANES * LANES;
    int64_t position = position_of(tile, at_most(r, tile->num_rows - 1));
    if (softcap > 0)
        for (int64_t k = 0; k < whole; k += LANES)
            _mm256_storeu_ps(scores + k, capped(_mm256_loadu_ps(scores + k), softcap));
    for (int64_t k = 0; k < at_most(num, first_seen(tile, position) - first); k++)
        scores[k] = -INFINITY;
    for (int64_t k = at_least(0, at_most(num, position + 1 - first)); k < whole; k++)
        scores[k] = -INFINITY;
    __m256 most = _mm256_set1_ps(few->greatest[r]), sum = _mm256_setzero_ps();
    for (int64_t k = 0; k < whole; k += LANES)
        most = _mm256_max_ps(most, _mm256_loadu_ps(scores + k));
    most = greatest_lane(most);
    for (int64_t k = 0; k < whole; k += LANES) {
        __m256 weight = exp2_lanes(_mm256_sub_ps(_mm256_loadu_ps(scores + k), most));
        _mm256_storeu_ps(scores + k, weight);
        sum = _mm256_add_ps(sum, weight);
    }
    __m256 lower = exp2_lanes(_mm256_sub_ps(_mm256_set1_ps(few->greatest[r]), most));
    few->lower[r] = _mm256_cvtss_f32(lower);
    few->greatest[r] = _mm256_cvtss_f32(most);
    few->sum[r] = few->sum[r] * few->lower[r] + total(sum);
}

/* Tiles of at most ROWS rows, of as many heads of keys as there are in `tiles`; rows that are not
   there are the last one again. */
INLINE void attend_few(const Tile *tiles, int64_t num_heads, float *scratch, const int ROWS,
                       const int is_bfloat16) {
    const Call *call = tiles->call;
    int64_t key_dim = call->key_dim, value_dim = call->value_dim, last = tiles->num_rows - 1;
    int64_t places[KEYS + AHEAD];
    Few few[TOGETHER];
    for (int64_t h = 0; h < num_heads; h++) {
        few[h].query = scratch + h * FEW * (key_dim + value_dim + KEYS);
        few[h].sums = few[h].query + FEW * key_dim;
        few[h].scores = few[h].sums + FEW * value_dim;
        for (int r = 0; r < ROWS; r++) {
            int64_t row = at_most(r, last);
            take(tiles + h, row, few[h].query + r * key_dim, is_bfloat16);
            for (int64_t d = 0; d < value_dim; d++) few[h].sums[r * value_dim + d] = 0.0f;
            begin_row(tiles + h, row, few[h].greatest + r, few[h].sum + r);
        }
    }
    int64_t end = position_of(tiles, last) + 1;
    int64_t first = first_seen(tiles, position_of(tiles, 0)) / KEYS * KEYS;
    for (; first < end; first += KEYS) {
        int64_t num = at_most(KEYS, end - first), num_known = at_most(KEYS + AHEAD, end - first);
        find(tiles, first, num_known, places);
        for (int64_t k = 0; k < num; k += 8 / ROWS) {
            for (int64_t j = k; j < at_most(num, k + 8 / ROWS); j++) {
                int64_t ahead = places[at_most(j + AHEAD, num_known - 1)];
                fetch(call->keys, ahead * key_dim, num_heads * key_dim, is_bfloat16);
                fetch(call->values, places[j] * value_dim, num_heads * value_dim, is_bfloat16);
            }
            for (int64_t h = 0; h < num_heads; h++)
                few_scores(call, few + h, h, places, k, num, ROWS, is_bfloat16);
        }
        for (int64_t h = 0; h < num_heads; h++) {
            for (int r = 0; r < ROWS; r++) few_weights(tiles + h, few + h, r, first, num);
            few_values_all(call, few + h, h, places, num, ROWS, is_bfloat16);
        }
    }
    for (int64_t h = 0; h < num_heads; h++)
        for (int r = 0; r <= last; r++)
            give(tiles + h, r, few[h].sums + r * value_dim, few[h].sum[r], is_bfloat16);
}

#endif
