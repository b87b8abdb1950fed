/* What is done to each row of bfloat16 numbers by itself. rows.py calls it. */

#include "bfloat16.h"
#include "crew.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <float.h>
#include <math.h>

#define LANES 16
#define PIECE 16384 /* numbers that are worth a piece of work */

typedef struct {
    const uint16_t *x;
    int64_t num_rows, width;
    const uint16_t *weights; /* (…, width) */
    const int64_t *places;   /* of each token: whose weights */
    int64_t each;            /* rows of a token */
    float eps;
    uint16_t *out;
    int64_t rows_of_piece;
} Norm;

/* Rounded before it is multiplied by the weights, as modules do it that norm in float32. */
AVX2 static void norm_row(const Norm *norm, int64_t row) {
    int64_t width = norm->width, whole = width - width % LANES;
    const uint16_t *x = norm->x + row * width;
    const uint16_t *weights = norm->weights + norm->places[row / norm->each] * width;
    uint16_t *restrict out = norm->out + row * width;
    float squares[LANES] = {0}, sum = 0;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            squares[lane] += widened(x[i + lane]) * widened(x[i + lane]);
    for (int64_t i = whole; i < width; i++) squares[i - whole] += widened(x[i]) * widened(x[i]);
    for (int lane = 0; lane < LANES; lane++) sum += squares[lane];
    float factor = 1.0f / sqrtf(sum / (float)width + norm->eps);
    for (int64_t i = 0; i < width; i++)
        out[i] = rounded(widened(rounded(widened(x[i]) * factor)) * widened(weights[i]));
}

static void norm_rows(const void *work, int64_t piece, int64_t thread) {
    const Norm *norm = work;
    (void)thread;
    int64_t end = (piece + 1) * norm->rows_of_piece;
    for (int64_t row = piece * norm->rows_of_piece; row < end && row < norm->num_rows; row++)
        norm_row(norm, row);
}

/* Each row over the root of its mean square, times its token's weights.

   x, out: (num_rows, width)   weights: (…, width)   places: (num_rows / each,) */
void expertpool_rms_norm(const uint16_t *x, int64_t num_rows, int64_t width,
                         const uint16_t *weights, const int64_t *places, int64_t each, float eps,
                         uint16_t *out, int64_t num_threads) {
    int64_t rows = PIECE / width + 1;
    Norm norm = {x, num_rows, width, weights, places, each, eps, out, rows};
    share(norm_rows, &norm, (num_rows + rows - 1) / rows, num_threads);
}

/* Heads of queries or keys, and where they are to be. Strides count numbers; those of a head are
   contiguous. */
typedef struct {
    const uint16_t *heads;
    uint16_t *out;
    int64_t num_heads;
    int64_t head_stride, token_stride, out_head_stride, out_token_stride;
} Heads;

typedef struct {
    Heads sides[2];
    int64_t num_tokens, dim;
    int64_t half;              /* numbers that are turned with as many that come after them */
    const uint16_t *cos, *sin; /* of each token */
    int64_t token_stride;      /* from token to token */
    int64_t second;            /* where the angles of the second half begin */
    int64_t num_threads;
} Rotation;

INLINE float product(uint16_t a, uint16_t b) { return widened(rounded(widened(a) * widened(b))); }

/* Rounded as often as modules round that turn numbers in bfloat16. */
AVX2 static void rotate_head(const Rotation *call, const uint16_t *x, const uint16_t *cos,
                             const uint16_t *sin, uint16_t *restrict out) {
    int64_t half = call->half, second = call->second;
    for (int64_t i = 0; i < half; i++) {
        out[i] = rounded(product(x[i], cos[i]) - product(x[half + i], sin[i]));
        out[half + i] =
            rounded(product(x[half + i], cos[second + i]) + product(x[i], sin[second + i]));
    }
    memcpy(out + 2 * half, x + 2 * half, (size_t)(call->dim - 2 * half) * sizeof *out);
}

static void rotate_token(const void *work, int64_t token, int64_t thread) {
    const Rotation *call = work;
    (void)thread;
    for (int s = 0; s < 2; s++) {
        const Heads *side = call->sides + s;
        for (int64_t head = 0; head < side->num_heads; head++)
            rotate_head(call, side->heads + token * side->token_stride + head * side->head_stride,
                        call->cos + token * call->token_stride,
                        call->sin + token * call->token_stride,
                        side->out + token * side->out_token_stride + head * side->out_head_stride);
    }
}

/* Turns each head of queries and of keys by its token's angles. */
void expertpool_rotate(const Rotation *call) {
    int64_t size = call->num_tokens * call->dim;
    size *= call->sides[0].num_heads + call->sides[1].num_heads;
    share(rotate_token, call, call->num_tokens, size < PIECE ? 1 : call->num_threads);
}

typedef struct {
    const uint16_t *logits;
    int64_t num_rows, num_columns, num_chosen, sum_to_one;
    float *scores;
    int64_t *chosen;
    int64_t rows_of_piece;
} Choice;

/* The largest first, of equal ones the first; what is not a number comes last. */
INLINE void choose_of_row(const Choice *call, int64_t row) {
    const uint16_t *logits = call->logits + row * call->num_columns;
    float *scores = call->scores + row * call->num_chosen, sum = 0, sum_of_chosen = 0;
    int64_t *chosen = call->chosen + row * call->num_chosen;
    float left[call->num_columns];
    for (int64_t c = 0; c < call->num_columns; c++)
        left[c] = fmaxf(widened(logits[c]), -FLT_MAX); /* which is what NaN becomes */
    for (int64_t k = 0; k < call->num_chosen; k++) {
        int64_t best = 0;
        for (int64_t c = 1; c < call->num_columns; c++)
            if (left[c] > left[best]) best = c;
        chosen[k] = best;
        left[best] = -INFINITY;
    }
    float greatest = widened(logits[chosen[0]]);
    for (int64_t c = 0; c < call->num_columns; c++) sum += expf(widened(logits[c]) - greatest);
    for (int64_t k = 0; k < call->num_chosen; k++) {
        scores[k] = expf(widened(logits[chosen[k]]) - greatest) / sum;
        sum_of_chosen += scores[k];
    }
    for (int64_t k = 0; k < call->num_chosen && call->sum_to_one; k++) scores[k] /= sum_of_chosen;
}

AVX2 static void choose_of_rows(const void *work, int64_t piece, int64_t thread) {
    const Choice *call = work;
    (void)thread;
    int64_t end = (piece + 1) * call->rows_of_piece;
    for (int64_t row = piece * call->rows_of_piece; row < end && row < call->num_rows; row++)
        choose_of_row(call, row);
}

/* The likeliest columns of each row of logits, and their shares of its softmax.

   logits: (num_rows, num_columns)   scores, chosen: (num_rows, num_chosen)
   sum_to_one: whether the shares are of what was chosen alone */
void expertpool_choose(const uint16_t *logits, int64_t num_rows, int64_t num_columns,
                       int64_t num_chosen, int64_t sum_to_one, float *scores, int64_t *chosen,
                       int64_t num_threads) {
    int64_t rows = PIECE / 8 / num_columns + 1;
    Choice call = {logits, num_rows, num_columns, num_chosen, sum_to_one, scores, chosen, rows};
    share(choose_of_rows, &call, (num_rows + rows - 1) / rows, num_threads);
}

typedef struct {
    const uint16_t *logits;
    int64_t num_rows, num_columns;
    int64_t *likeliest;
    int64_t rows_of_piece;
} Likeliest;

#define BLOCK 1024 /* logits whose largest is found before it is compared */

/* Whole numbers in the order of the numbers: the bits of those below zero count backwards. */
INLINE __m256i ordered(const uint16_t *numbers) {
    __m256i bits = _mm256_loadu_si256((const __m256i *)numbers);
    __m256i flips = _mm256_srli_epi16(_mm256_srai_epi16(bits, 15), 1);
    return _mm256_xor_si256(bits, flips);
}

/* most: of the numbers so far, in each lane. -> whether `numbers` are larger in any */
INLINE int is_larger(__m256i numbers, __m256i most) {
    return _mm256_movemask_epi8(_mm256_cmpgt_epi16(numbers, most));
}

INLINE __m256i largest(__m256i numbers) {
    int16_t lanes[PAIR];
    _mm256_storeu_si256((__m256i *)lanes, numbers);
    for (int lane = 1; lane < PAIR; lane++)
        lanes[0] = lanes[lane] > lanes[0] ? lanes[lane] : lanes[0];
    return _mm256_set1_epi16(lanes[0]);
}

INLINE int64_t likeliest_of_row(const uint16_t *logits, int64_t num_columns) {
    int64_t whole = num_columns - num_columns % PAIR, begin = whole;
    uint16_t last[PAIR];
    for (int64_t lane = 0; lane < PAIR; lane++) /* the rest, and some of it again */
        last[lane] = logits[whole + lane < num_columns ? whole + lane : num_columns - 1];
    __m256i most = _mm256_set1_epi16(INT16_MIN);
    for (int64_t start = 0; start < whole; start += BLOCK) {
        int64_t end = start + BLOCK < whole ? start + BLOCK : whole;
        __m256i found = ordered(logits + start);
        for (int64_t c = start + PAIR; c < end; c += PAIR)
            found = _mm256_max_epi16(found, ordered(logits + c));
        if (start == 0 || is_larger(found, most)) {
            most = largest(found);
            begin = start;
        }
    }
    if (is_larger(ordered(last), most)) {
        most = largest(ordered(last));
        begin = whole;
    }
    for (int64_t c = begin;; c += PAIR) {
        __m256i numbers = ordered(c < whole ? logits + c : last);
        int equal = _mm256_movemask_epi8(_mm256_cmpeq_epi16(numbers, most));
        if (equal) return c + __builtin_ctz((unsigned)equal) / 2;
    }
}

AVX2 static void likeliest_of_rows(const void *work, int64_t piece, int64_t thread) {
    const Likeliest *call = work;
    (void)thread;
    int64_t end = (piece + 1) * call->rows_of_piece;
    for (int64_t row = piece * call->rows_of_piece; row < end && row < call->num_rows; row++)
        call->likeliest[row] =
            likeliest_of_row(call->logits + row * call->num_columns, call->num_columns);
}

/* The first of the largest of each row; what is not a number is larger than any, unless its sign
   is set.

   logits: (num_rows, num_columns)   likeliest: (num_rows,) */
void expertpool_likeliest(const uint16_t *logits, int64_t num_rows, int64_t num_columns,
                          int64_t *likeliest, int64_t num_threads) {
    int64_t rows = 4 * PIECE / (num_columns + 1) + 1;
    Likeliest call = {logits, num_rows, num_columns, likeliest, rows};
    share(likeliest_of_rows, &call, (num_rows + rows - 1) / rows, num_threads);
}
#endif
