/* Products of few rows with bfloat16 matrices, on x86 CPUs with AVX2. products.py calls it.

   torch computes such products as dot products of bfloat16 where there is no AVX-512: their time
   grows with the rows. Here a matrix is read once for up to six rows, converted to float32 in
   registers, and lines of it that come next are fetched ahead.

   Every number is summed in one order, whatever other rows there are and however many threads. */

#include "bfloat16.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define FETCH 32  /* bfloat16 numbers in a cache line */
#define AHEAD 8   /* lines of the matrix that are fetched ahead */
#define UNIT 8    /* outputs that are computed together */
#define BLOCK 64  /* outputs of a thread's piece of work */
#define MOST 6    /* rows that are computed together */

typedef struct {
    const uint16_t *lines; /* bfloat16, the first of the unit's lines of the matrix */
    int64_t stride;        /* from line to line */
    const float *x;        /* rows, num_columns each */
    int64_t num_columns;
    const uint16_t *bias; /* bfloat16, one for each line, or NULL */
    uint16_t *out;        /* bfloat16, num_outputs for each row */
    int64_t num_outputs;
} Unit;

static inline void finish(const Unit *unit, int line, int row, float sum, int64_t done) {
    const uint16_t *numbers = unit->lines + line * unit->stride;
    const float *x = unit->x + row * unit->num_columns;
    for (int64_t i = done; i < unit->num_columns; i++) sum += widened(numbers[i]) * x[i];
    if (unit->bias) sum += widened(unit->bias[line]);
    unit->out[row * unit->num_outputs + line] = rounded(sum);
}

/* ROWS rows times num_lines lines, LINES at a time: as many sums as there are registers for. */
#define KERNEL(ROWS, LINES)                                                                       \
    AVX2 static void rows_##ROWS##_by_##LINES(const Unit *whole, int num_lines) {                  \
        for (int first = 0; first < num_lines; first += LINES) {                                   \
            Unit unit = *whole;                                                                    \
            unit.lines += first * unit.stride;                                                     \
            unit.out += first;                                                                     \
            if (unit.bias) unit.bias += first;                                                     \
            __m256 sums[LINES][ROWS];                                                              \
            for (int l = 0; l < LINES; l++)                                                        \
                for (int r = 0; r < ROWS; r++) sums[l][r] = _mm256_setzero_ps();                   \
            int64_t done = 0;                                                                      \
            for (; done + LANES <= unit.num_columns; done += LANES) {                              \
                if (done % FETCH == 0)                                                             \
                    for (int l = 0; l < LINES; l++)                                                \
                        _mm_prefetch(                                                              \
                            (const char *)(unit.lines + (l + AHEAD) * unit.stride + done),         \
                            _MM_HINT_T0);                                                          \
                __m256 x[ROWS];                                                                    \
                for (int r = 0; r < ROWS; r++)                                                     \
                    x[r] = _mm256_loadu_ps(unit.x + r * unit.num_columns + done);                  \
                for (int l = 0; l < LINES; l++) {                                                  \
                    __m256 line = widened_lanes(unit.lines + l * unit.stride + done);              \
                    for (int r = 0; r < ROWS; r++)                                                 \
                        sums[l][r] = _mm256_fmadd_ps(line, x[r], sums[l][r]);                      \
                }                                                                                  \
            }                                                                                      \
            for (int l = 0; l < LINES; l++)                                                        \
                for (int r = 0; r < ROWS; r++) finish(&unit, l, r, total(sums[l][r]), done);       \
        }                                                                                          \
    }

KERNEL(1, 8)
KERNEL(2, 4)
KERNEL(3, 4)
KERNEL(4, 2)
KERNEL(5, 2)
KERNEL(6, 2)
KERNEL(1, 1)
KERNEL(2, 1)
KERNEL(3, 1)
KERNEL(4, 1)
KERNEL(5, 1)
KERNEL(6, 1)

typedef void (*Kernel)(const Unit *, int);

static const Kernel whole_units[MOST] = {rows_1_by_8, rows_2_by_4, rows_3_by_4,
                                         rows_4_by_2, rows_5_by_2, rows_6_by_2};
static const Kernel part_units[MOST] = {rows_1_by_1, rows_2_by_1, rows_3_by_1,
                                        rows_4_by_1, rows_5_by_1, rows_6_by_1};

/* All rows, at most six at a time and as evenly as can be. */
static void multiply_unit(Unit unit, int num_lines, int64_t num_rows) {
    const Kernel *kernels = num_lines == UNIT ? whole_units : part_units;
    int64_t num_parts = (num_rows + MOST - 1) / MOST;
    for (int64_t part = 0; part < num_parts; part++) {
        int64_t rows = num_rows * (part + 1) / num_parts - num_rows * part / num_parts;
        kernels[rows - 1](&unit, num_lines);
        unit.x += rows * unit.num_columns;
        unit.out += rows * unit.num_outputs;
    }
}

/* Runs of rows, each times its own matrix.

   matrices: (…, num_outputs, num_columns) bfloat16, lines contiguous   x: (n, num_columns) float32
   runs: num_runs times matrix, first row, end   bias: (…, num_outputs) bfloat16, or NULL
   out: (n, num_outputs) bfloat16. Strides count numbers. */
void expertpool_products(const uint16_t *matrices, int64_t matrix_stride, int64_t line_stride,
                         const float *x, int64_t num_columns, int64_t num_outputs,
                         const int64_t *runs, int64_t num_runs, const uint16_t *bias,
                         int64_t bias_stride, uint16_t *out) {
    int64_t num_blocks = (num_outputs + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t task = 0; task < num_runs * num_blocks; task++) {
        const int64_t *run = runs + 3 * (task / num_blocks);
        int64_t first = task % num_blocks * BLOCK;
        int64_t end = first + BLOCK < num_outputs ? first + BLOCK : num_outputs;
        for (int64_t line = first; line < end; line += UNIT) {
            Unit unit = {matrices + run[0] * matrix_stride + line * line_stride,
                         line_stride,
                         x + run[1] * num_columns,
                         num_columns,
                         bias ? bias + run[0] * bias_stride + line : 0,
                         out + run[1] * num_outputs + line,
                         num_outputs};
            multiply_unit(unit, (int)(end - line < UNIT ? end - line : UNIT), run[2] - run[1]);
        }
    }
}
#endif
