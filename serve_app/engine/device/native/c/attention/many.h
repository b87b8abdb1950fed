/* Attention of many rows: lanes are rows. */

#pragma once

#include "rows.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define PANEL 16            /* rows side by side: two registers */
#define STEP 6              /* broadcast numbers for which there are sums of a panel in registers */

/* Products of `num` lines with a panel, added to what there is, which is lowered first.

   a: line i's number j at i * along + j * across   b: depth times PANEL   c: num times PANEL
   lower: PANEL, or NULL where c holds nothing yet */
INLINE void multiply(const float *a, int64_t along, int64_t across, int64_t depth, const float *b,
                     float *c, const float *lower, const int LINES, const int REGISTERS) {
    __m256 sums[STEP][2];
    for (int i = 0; i < LINES; i++)
        for (int r = 0; r < REGISTERS; r++)
            sums[i][r] = lower ? _mm256_mul_ps(_mm256_loadu_ps(c + i * PANEL + r * LANES),
                                               _mm256_loadu_ps(lower + r * LANES))
                               : _mm256_setzero_ps();
    for (int64_t j = 0; j < depth; j++)
        for (int i = 0; i < LINES; i++) {
            __m256 one = _mm256_broadcast_ss(a + i * along + j * across);
            for (int r = 0; r < REGISTERS; r++)
                add_product(&sums[i][r], one, _mm256_loadu_ps(b + j * PANEL + r * LANES));
        }
    for (int i = 0; i < LINES; i++)
        for (int r = 0; r < REGISTERS; r++)
            _mm256_storeu_ps(c + i * PANEL + r * LANES, sums[i][r]);
}

INLINE void multiply_all(const float *a, int64_t along, int64_t across, int64_t num, int64_t depth,
                         const float *b, float *c, const float *lower, const int REGISTERS) {
    int64_t i = 0;
    for (; i + STEP <= num; i += STEP)
        multiply(a + i * along, along, across, depth, b, c + i * PANEL, lower, STEP, REGISTERS);
    for (; i + 2 <= num; i += 2)
        multiply(a + i * along, along, across, depth, b, c + i * PANEL, lower, 2, REGISTERS);
    for (; i < num; i++)
        multiply(a + i * along, along, across, depth, b, c + i * PANEL, lower, 1, REGISTERS);
}

/* Rows side by side, and what each has come to. */
typedef struct {
    float *query; /* key_dim times PANEL */
    float *sums;  /* value_dim times PANEL */
    float greatest[PANEL], sum[PANEL];
    int32_t positions[PANEL];
} Panel;

/* As few_weights, for a register's rows.   scores, lower: of those rows */
INLINE void many_weights(const Tile *tile, Panel *panel, int64_t first, int64_t num, float *scores,
                         float *lower, int64_t lane) {
    const Call *call = tile->call;
    const __m256 unseen = _mm256_set1_ps(-INFINITY);
    __m256i position = _mm256_loadu_si256((const __m256i *)(panel->positions + lane));
    int64_t window = call->window ? call->window : INT32_MAX;
    __m256i outside = _mm256_sub_epi32(position, _mm256_set1_epi32((int32_t)window));
    int all_seen = first + num - 1 <= panel->positions[0] &&
                   first > panel->positions[PANEL - 1] - window;
    __m256 before = _mm256_loadu_ps(panel->greatest + lane), most = before;
    for (int64_t k = 0; k < num; k++) {
        __m256 score = _mm256_loadu_ps(scores + k * PANEL);
        if (call->softcap > 0) score = capped(score, call->softcap);
        if (!all_seen) {
            __m256i key = _mm256_set1_epi32((int32_t)(first + k));
            __m256i seen = _mm256_andnot_si256(_mm256_cmpgt_epi32(key, position),
                                               _mm256_cmpgt_epi32(key, outside));
            score = _mm256_blendv_ps(unseen, score, _mm256_castsi256_ps(seen));
        }
        _mm256_storeu_ps(scores + k * PANEL, score);
        most = _mm256_max_ps(most, score);
    }
    __m256 factor = exp2_lanes(_mm256_sub_ps(before, most));
    __m256 sum = _mm256_mul_ps(_mm256_loadu_ps(panel->sum + lane), factor);
    for (int64_t k = 0; k < num; k++) {
        __m256 weight = exp2_lanes(_mm256_sub_ps(_mm256_loadu_ps(scores + k * PANEL), most));
        _mm256_storeu_ps(scores + k * PANEL, weight);
        sum = _mm256_add_ps(sum, weight);
    }
    _mm256_storeu_ps(lower, factor);
    _mm256_storeu_ps(panel->greatest + lane, most);
    _mm256_storeu_ps(panel->sum + lane, sum);
}

/* One panel meets keys and values, which are float32 here: num times their dimensions. */
INLINE void meet(const Tile *tile, Panel *panel, int64_t first, int64_t num, const float *keys,
                 const float *values, float *scores, const int REGISTERS) {
    const Call *call = tile->call;
    float lower[PANEL];
    multiply_all(keys, call->key_dim, 1, num, call->key_dim, panel->query, scores, 0, REGISTERS);
    for (int r = 0; r < REGISTERS; r++)
        many_weights(tile, panel, first, num, scores + r * LANES, lower + r * LANES, r * LANES);
    multiply_all(values, 1, call->value_dim, call->value_dim, num, scores, panel->sums, lower,
                 REGISTERS);
}

INLINE void widen(const void *stored, const int64_t *places, int64_t num, int64_t dim, float *wide,
                  const int is_bfloat16) {
    for (int64_t k = 0; k < num; k++, wide += dim) {
        int64_t d = 0;
        for (; d + PAIR <= dim; d += PAIR)
            for (int half = 0; half < 2; half++)
                _mm256_storeu_ps(wide + d + half * LANES,
                                 half_at(stored, places[k] * dim + d, half, is_bfloat16));
        for (; d < dim; d++) wide[d] = number_at(stored, places[k] * dim + d, is_bfloat16);
    }
}

/* The rows of a panel from `row` on; those that are not there are the tile's last again.
   room: key_dim */
INLINE void begin_panel(const Tile *tile, Panel *panel, int64_t row, float *room,
                        const int is_bfloat16) {
    const Call *call = tile->call;
    for (int64_t d = 0; d < call->value_dim * PANEL; d++) panel->sums[d] = 0.0f;
    for (int lane = 0; lane < PANEL; lane++) {
        int64_t own = at_most(row + lane, tile->num_rows - 1);
        take(tile, own, room, is_bfloat16);
        for (int64_t d = 0; d < call->key_dim; d++) panel->query[d * PANEL + lane] = room[d];
        panel->positions[lane] = (int32_t)position_of(tile, own);
        begin_row(tile, own, panel->greatest + lane, panel->sum + lane);
    }
}

/* room: value_dim */
INLINE void end_panel(const Tile *tile, const Panel *panel, int64_t row, float *room,
                      const int is_bfloat16) {
    const Call *call = tile->call;
    for (int64_t lane = 0; lane < at_most(PANEL, tile->num_rows - row); lane++) {
        for (int64_t d = 0; d < call->value_dim; d++) room[d] = panel->sums[d * PANEL + lane];
        give(tile, row + lane, room, panel->sum[lane], is_bfloat16);
    }
}

INLINE void attend_many(const Tile *tile, float *scratch, const int is_bfloat16) {
    const Call *call = tile->call;
    int64_t key_dim = call->key_dim, value_dim = call->value_dim, places[KEYS];
    int64_t num_panels = (tile->num_rows + PANEL - 1) / PANEL;
    float *keys = scratch, *values = keys + KEYS * key_dim, *scores = values + KEYS * value_dim;
    float *rows = scores + KEYS * PANEL;
    Panel panels[TILE / PANEL];
    for (int64_t p = 0; p < num_panels; p++) {
        panels[p].query = rows + p * PANEL * (key_dim + value_dim);
        panels[p].sums = panels[p].query + PANEL * key_dim;
        begin_panel(tile, panels + p, p * PANEL, keys, is_bfloat16);
    }
    int64_t end = position_of(tile, tile->num_rows - 1) + 1;
    int64_t first = first_seen(tile, position_of(tile, 0)) / KEYS * KEYS;
    for (; first < end; first += KEYS) {
        int64_t num = at_most(KEYS, end - first);
        find(tile, first, num, places);
        widen(call->keys, places, num, key_dim, keys, is_bfloat16);
        widen(call->values, places, num, value_dim, values, is_bfloat16);
        for (int64_t p = 0; p < num_panels; p++) {
            int64_t seen = at_most(num, panels[p].positions[PANEL - 1] + 1 - first);
            if (seen <= 0) continue;
            if (tile->num_rows - p * PANEL > LANES)
                meet(tile, panels + p, first, seen, keys, values, scores, 2);
            else
                meet(tile, panels + p, first, seen, keys, values, scores, 1);
        }
    }
    for (int64_t p = 0; p < num_panels; p++)
        end_panel(tile, panels + p, p * PANEL, values, is_bfloat16);
}

#endif
