/* What is done to each row of bfloat16 numbers by itself. rows.py calls it. */

#include "bfloat16.h"
#include "crew.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <math.h>

#define FOUR 4
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

INLINE __m128 rounded_to_bfloat16(__m128 values) {
    uint16_t four[FOUR];
    rounded_four(values, four);
    return widened_four(four);
}

/* Rounded before it is multiplied by the weights, as modules do it that norm in float32. */
AVX2 static void norm_row(const Norm *norm, int64_t row) {
    const uint16_t *x = norm->x + row * norm->width;
    const uint16_t *weights = norm->weights + norm->places[row / norm->each] * norm->width;
    uint16_t *out = norm->out + row * norm->width;
    int64_t end = norm->width - norm->width % FOUR;
    uint16_t last[FOUR] = {0}, last_weights[FOUR] = {0};
    memcpy(last, x + end, (size_t)(norm->width - end) * sizeof *x);
    memcpy(last_weights, weights + end, (size_t)(norm->width - end) * sizeof *weights);

    __m128 squares = widened_four(last);
    squares = _mm_mul_ps(squares, squares);
    for (int64_t i = 0; i < end; i += FOUR) {
        __m128 values = widened_four(x + i);
        squares = _mm_fmadd_ps(values, values, squares);
    }
    float sums[FOUR];
    _mm_storeu_ps(sums, squares);
    float mean = (sums[0] + sums[1] + sums[2] + sums[3]) / (float)norm->width;
    __m128 factor = _mm_set1_ps(1.0f / sqrtf(mean + norm->eps));

    for (int64_t i = 0; i < end; i += FOUR) {
        __m128 values = rounded_to_bfloat16(_mm_mul_ps(widened_four(x + i), factor));
        rounded_four(_mm_mul_ps(values, widened_four(weights + i)), out + i);
    }
    __m128 values = rounded_to_bfloat16(_mm_mul_ps(widened_four(last), factor));
    rounded_four(_mm_mul_ps(values, widened_four(last_weights)), last);
    memcpy(out + end, last, (size_t)(norm->width - end) * sizeof *out);
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
#endif
