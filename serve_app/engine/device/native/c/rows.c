/* What is done to each row of bfloat16 numbers by itself. rows.py calls it. */

#include "bfloat16.h"
#include "crew.h"

#if defined(__x86_64__) && defined(__GNUC__)

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
#endif
