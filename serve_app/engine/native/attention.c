/* Attention of a step's tokens over the paged store, on x86 CPUs with AVX2. attention.py calls it.

   Keys and values are read where they lie, through tables of blocks (Kwon et al. 2023), some at a
   time: a query keeps its greatest score so far, the sum of exponentials and the sum of values
   weighed by them, and lowers both sums when a greater score comes (online softmax: Milakov and
   Gimelshein 2018). All of that is float32; what comes out is rounded once.

   A row is one head's query of one token. The rows of a sequence that share a head of keys are cut
   into tiles, which are the pieces of work for threads. Many rows lie side by side in the lanes of
   a register and meet one number of a key at a time; with few rows the lanes are numbers of a head.
   Numbers of a head stand in scratch as they are widened: of each PAIR of bfloat16 first those of
   even place. What is left of a head behind its last whole PAIR is taken one by one.

   How a row is computed depends on its sequence's part of the step alone. */

#include "bfloat16.h"
#include "crew.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <float.h>
#include <math.h>

#define LANES 8
#define KEYS 64             /* that are taken at a time */
#define FEW 4               /* rows, and fewer, whose lanes are numbers of a head */
#define TOGETHER 8          /* most heads of keys that few rows take together, as they lie so */
#define AHEAD 8             /* keys that are fetched ahead */
#define PANEL 16            /* rows side by side: two registers */
#define TILE 64             /* most rows of a piece of work */
#define STEP 6              /* broadcast numbers for which there are sums of a panel in registers */
#define LEAST (1 << 18)     /* products of numbers that are worth a helper */
#define LOG2_E 1.44269504f

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

/* ---- few rows: lanes are numbers of a head ---- */

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

/* ---- many rows: lanes are rows ---- */

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

/* A tile for each of some heads of keys, one after the other. */
INLINE void attend(const Tile *tiles, int64_t num_heads, float *scratch, const int is_bfloat16) {
    if (tiles->num_rows == 1)
        attend_few(tiles, num_heads, scratch, 1, is_bfloat16);
    else if (tiles->num_rows == 2)
        attend_few(tiles, num_heads, scratch, 2, is_bfloat16);
    else if (tiles->num_rows <= FEW)
        attend_few(tiles, num_heads, scratch, FEW, is_bfloat16);
    else
        attend_many(tiles, scratch, is_bfloat16);
}

AVX2 static void attend_bfloat16(const Tile *tiles, int64_t num_heads, float *scratch) {
    attend(tiles, num_heads, scratch, 1);
}

AVX2 static void attend_float32(const Tile *tiles, int64_t num_heads, float *scratch) {
    attend(tiles, num_heads, scratch, 0);
}

/* Multiplications of a step. */
static int64_t work_of(const Call *call) {
    int64_t work = 0;
    for (int64_t s = 0; s < call->num_sequences; s++)
        work += (int64_t)(call->starts[s + 1] - call->starts[s]) * call->lengths[s];
    return work * call->query_heads * (call->key_dim + call->value_dim);
}

/* float32 numbers that a thread needs: those of attend_few or of attend_many. */
int64_t expertpool_attention_scratch(int64_t key_dim, int64_t value_dim) {
    int64_t few = TOGETHER * FEW * (key_dim + value_dim + KEYS);
    return at_least(few, (KEYS + TILE) * (key_dim + value_dim) + KEYS * PANEL);
}

typedef struct {
    const Call *call;
    int64_t together; /* heads of keys that few rows take together */
} Work;

/* Tiles by number: of all sequences and heads the first, then the second. */
static void attend_piece(const void *shared, int64_t number, int64_t thread) {
    const Work *work = shared;
    const Call *call = work->call;
    int64_t num_columns = call->num_sequences * call->kv_heads;
    int64_t each = call->query_heads / call->kv_heads, first_row = number / num_columns * TILE;
    int64_t sequence = number % num_columns / call->kv_heads, head = number % call->kv_heads;
    int64_t start = call->starts[sequence], num_tokens = call->starts[sequence + 1] - start;
    int64_t num_rows = at_most(TILE, num_tokens * each - first_row), num_heads = 1;
    if (num_rows <= 0) return;
    if (num_rows <= FEW) {
        if (head % work->together) return;
        num_heads = at_most(work->together, call->kv_heads - head);
    }
    Tile tiles[TOGETHER];
    for (int64_t h = 0; h < num_heads; h++)
        tiles[h] = (Tile){call,
                          head + h,
                          each,
                          start,
                          first_row,
                          num_rows,
                          call->lengths[sequence] - num_tokens,
                          call->tables + sequence * call->table_width};
    int64_t size = expertpool_attention_scratch(call->key_dim, call->value_dim);
    float *scratch = call->scratch + size * thread;
    (call->is_bfloat16 ? attend_bfloat16 : attend_float32)(tiles, num_heads, scratch);
}

void expertpool_attention(const Call *call) {
    int64_t most_rows = call->most_tokens * (call->query_heads / call->kv_heads);
    int64_t num_columns = call->num_sequences * call->kv_heads;
    int64_t num_threads = work_of(call) < LEAST ? 1 : call->num_threads;
    Work work = {call, call->num_sequences < 2 * num_threads ? 1 : TOGETHER};
    share(attend_piece, &work, (most_rows + TILE - 1) / TILE * num_columns, num_threads);
}
#endif
