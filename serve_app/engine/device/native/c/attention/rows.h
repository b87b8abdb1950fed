/* What few rows and many have in common: where they are, where they begin, what they come to. */

#pragma once

#include "../exponential.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <float.h>
#include <math.h>

#define LANES 8
#define KEYS 64             /* that are taken at a time */
#define FEW 4               /* rows, and fewer, whose lanes are numbers of a head */
#define TOGETHER 8          /* most heads of keys that few rows take together, as they lie so */
#define TILE 64             /* most rows of a piece of work */

typedef struct {
    const void *query;         /* (T, query_heads, key_dim), numbers of a head contiguous */
    const void *keys, *values; /* (B, block_size, kv_heads, key_dim or value_dim), contiguous */
    void *out;                 /* (T, query_heads, value_dim), contiguous */
    const float *sinks;        /* (T, query_heads), or NULL */
    const int32_t *starts, *lengths, *tables; /* as in Paging */
    float *scratch;                           /* num_threads times expertpool_attention_scratch */
    int64_t query_strides[2];                 /* from token to token, and from head to head */
    int64_t num_sequences, most_tokens, table_width, block_size;
    int64_t query_heads, kv_heads, key_dim, value_dim;
    int64_t window; /* 0: tokens see all that is before them */
    int64_t is_bfloat16, num_threads;
    float scaling, softcap; /* softcap 0: scores are not capped */
} Call;

/* Rows of one sequence and one head of keys, counted through its tokens and each one's queries. */
typedef struct {
    const Call *call;
    int64_t head, each; /* each: queries of a token that share the head */
    int64_t first_token, first_row, num_rows;
    int64_t before; /* position of the sequence's first token of the step */
    const int32_t *table;
} Tile;

static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

static inline int64_t position_of(const Tile *tile, int64_t row) {
    return tile->before + (tile->first_row + row) / tile->each;
}

/* Index of a row's query among all (token, head). */
static inline void place_of(const Tile *tile, int64_t row, int64_t *token, int64_t *head) {
    *token = tile->first_token + (tile->first_row + row) / tile->each;
    *head = tile->head * tile->each + (tile->first_row + row) % tile->each;
}

static inline int64_t first_seen(const Tile *tile, int64_t position) {
    int64_t window = tile->call->window;
    return window ? at_least(0, position - window + 1) : 0;
}

INLINE float number_at(const void *numbers, int64_t index, const int is_bfloat16) {
    return is_bfloat16 ? widened(((const uint16_t *)numbers)[index])
                       : ((const float *)numbers)[index];
}

/* Half of PAIR numbers, as they stand in scratch. */
INLINE __m256 half_at(const void *numbers, int64_t index, int half, const int is_bfloat16) {
    const uint16_t *pair = (const uint16_t *)numbers + index;
    if (is_bfloat16) return half ? widened_odd(pair) : widened_even(pair);
    return _mm256_loadu_ps((const float *)numbers + index + half * LANES);
}

INLINE void put(void *numbers, int64_t index, float value, const int is_bfloat16) {
    uint16_t four[4];
    rounded_four(_mm_set1_ps(value), four);
    if (is_bfloat16)
        ((uint16_t *)numbers)[index] = four[0];
    else
        ((float *)numbers)[index] = value;
}

/* Scores divided by the cap become capped scores, times log2(e) as all scores are: their
   exponentials are powers of 2.

   tanh(x) = (1 - e) / (1 + e) with e = exp(-2 |x|), and the sign of x. */
INLINE __m256 capped(__m256 x, float softcap) {
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    __m256 size = _mm256_andnot_ps(sign, x);
    __m256 e = exp2_lanes(_mm256_mul_ps(size, _mm256_set1_ps(-2.0f * LOG2_E)));
    __m256 tanh = _mm256_div_ps(_mm256_sub_ps(one, e), _mm256_add_ps(one, e));
    tanh = _mm256_or_ps(tanh, _mm256_and_ps(sign, x));
    return _mm256_mul_ps(tanh, _mm256_set1_ps(softcap * LOG2_E));
}

/* Where rows start: a sink is as a score that came before, with no value. */
INLINE void begin_row(const Tile *tile, int64_t row, float *greatest, float *sum) {
    const float *sinks = tile->call->sinks;
    int64_t token, head;
    place_of(tile, row, &token, &head);
    *greatest = sinks ? sinks[token * tile->call->query_heads + head] * LOG2_E : -FLT_MAX;
    *sum = sinks ? 1.0f : 0.0f;
}

/* A row's query, scaled, as it stands in scratch. */
INLINE void take(const Tile *tile, int64_t row, float *query, const int is_bfloat16) {
    const Call *call = tile->call;
    float scale = call->softcap > 0 ? call->scaling / call->softcap : call->scaling * LOG2_E;
    int64_t token, head, d = 0;
    place_of(tile, row, &token, &head);
    int64_t from = token * call->query_strides[0] + head * call->query_strides[1];
    for (; d + PAIR <= call->key_dim; d += PAIR)
        for (int half = 0; half < 2; half++) {
            __m256 numbers = half_at(call->query, from + d, half, is_bfloat16);
            _mm256_storeu_ps(query + d + half * LANES,
                             _mm256_mul_ps(numbers, _mm256_set1_ps(scale)));
        }
    for (; d < call->key_dim; d++)
        query[d] = number_at(call->query, from + d, is_bfloat16) * scale;
}

/* What a row has come to: sums of values as they stand in scratch, by the sum of the weights. */
INLINE void give(const Tile *tile, int64_t row, const float *sums, float sum,
                 const int is_bfloat16) {
    const Call *call = tile->call;
    int64_t token, head, d = 0;
    place_of(tile, row, &token, &head);
    int64_t at = (token * call->query_heads + head) * call->value_dim;
    __m256 divisor = _mm256_set1_ps(sum);
    for (; d + PAIR <= call->value_dim; d += PAIR) {
        __m256 first = _mm256_div_ps(_mm256_loadu_ps(sums + d), divisor);
        __m256 second = _mm256_div_ps(_mm256_loadu_ps(sums + d + LANES), divisor);
        if (is_bfloat16) {
            rounded_pair(first, second, (uint16_t *)call->out + at + d);
        } else {
            _mm256_storeu_ps((float *)call->out + at + d, first);
            _mm256_storeu_ps((float *)call->out + at + d + LANES, second);
        }
    }
    for (; d < call->value_dim; d++) put(call->out, at + d, sums[d] / sum, is_bfloat16);
}

/* Where in the store the tokens at `num` positions are, times heads: for keys or values of the
   tile's head. */
INLINE void find(const Tile *tile, int64_t first, int64_t num, int64_t *places) {
    const Call *call = tile->call;
    int64_t block = first / call->block_size, offset = first % call->block_size;
    for (int64_t k = 0; k < num; k++) {
        places[k] = (tile->table[block] * call->block_size + offset) * call->kv_heads + tile->head;
        if (++offset == call->block_size) offset = 0, block++;
    }
}

/* Has `num` numbers brought to L2: there is more to come than L1 holds. */
INLINE void fetch(const void *numbers, int64_t index, int64_t num, const int is_bfloat16) {
    int64_t size = is_bfloat16 ? 2 : 4;
    const char *line = (const char *)numbers + index * size;
    for (int64_t at = 0; at < num * size; at += 64) _mm_prefetch(line + at, _MM_HINT_T1);
}

INLINE float total(__m256 lanes) {
    __m256 four[4] = {lanes, lanes, lanes, lanes};
    return _mm_cvtss_f32(totals(four));
}

/* The greatest of the lanes, in each of them. */
INLINE __m256 greatest_lane(__m256 lanes) {
    lanes = _mm256_max_ps(lanes, _mm256_permute2f128_ps(lanes, lanes, 1));
    lanes = _mm256_max_ps(lanes, _mm256_permute_ps(lanes, 0x4e));
    return _mm256_max_ps(lanes, _mm256_permute_ps(lanes, 0xb1));
}

#endif
