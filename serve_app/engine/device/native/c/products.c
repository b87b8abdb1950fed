/* Products with bfloat16 matrices, on x86 CPUs with AVX2. products.py calls it.

   torch computes such products as dot products of bfloat16 where there is no AVX-512: their time
   grows with the rows. Here they are made of tiles: see lines.h. Every number is summed in one
   order, whatever other rows there are and however many threads. */

#include "crew.h"
#include "lines.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define BLOCK 96     /* rows that all lines of a piece meet before others: L2 holds them */
#define PIECES 4     /* pieces of work for each thread */
#define LEAST 200000 /* products of numbers that are worth a piece */

typedef struct {
    const uint16_t *lines; /* of the matrix */
    int64_t line_stride;
    int num_lines; /* at most LINES */
    const uint16_t *x;
    int64_t x_stride; /* from row to row */
    int64_t num_columns;
    const uint16_t *bias; /* one for each line, or NULL */
    uint16_t *out;
    int64_t out_stride; /* from row to row */
} Tile;

/* Adds the bias and rounds. sums: of each row, one for each line */
INLINE void give(const Tile *own, const __m128 *sums, int num_rows) {
    size_t num_bytes = (size_t)own->num_lines * sizeof *own->out;
    uint16_t four[LINES] = {0};
    if (own->bias) memcpy(four, own->bias, num_bytes);
    __m128 bias = widened_four(four);
    EACH(r, num_rows) {
        rounded_four(_mm_add_ps(sums[r], bias), four);
        memcpy(own->out + r * own->out_stride, four, num_bytes);
    }
}

#define TILE(target, sums_by, num_rows)                                                            \
    target static void tile_by_##sums_by##_##num_rows(const Tile *own) {                           \
        const uint16_t *rows[MOST_DOTS];                                                           \
        __m128 sums[MOST_DOTS];                                                                    \
        EACH(r, num_rows) rows[r] = own->x + r * own->x_stride;                                    \
        sums_by(own->lines, own->line_stride, own->num_lines, rows, num_rows, own->num_columns,    \
                sums);                                                                             \
        give(own, sums, num_rows);                                                                 \
    }

TILE(AVX2, sums_of_lines, 1)
TILE(AVX2, sums_of_lines, 2)
TILE(AVX2, sums_of_lines, 3)
TILE(DOTS, dots_of_lines, 1)
TILE(DOTS, dots_of_lines, 2)
TILE(DOTS, dots_of_lines, 3)
TILE(DOTS, dots_of_lines, 4)

typedef struct {
    void (*tiles[MOST_DOTS])(const Tile *); /* by rows less one */
    int64_t most;                           /* rows of a tile */
    int64_t reading; /* rows that take as long as reading the matrix from memory does */
} Kind;

static const Kind kinds[] = {
    {{tile_by_sums_of_lines_1, tile_by_sums_of_lines_2, tile_by_sums_of_lines_3}, MOST, 3},
    {{tile_by_dots_of_lines_1, tile_by_dots_of_lines_2, tile_by_dots_of_lines_3,
      tile_by_dots_of_lines_4},
     MOST_DOTS,
     8},
};

/* All rows, as evenly as can be. */
static void multiply_lines(const Kind *kind, Tile own, int64_t num_rows) {
    for (int64_t left = (num_rows + kind->most - 1) / kind->most; left; left--) {
        int64_t rows = num_rows / left;
        kind->tiles[rows - 1](&own);
        own.x += rows * own.x_stride;
        own.out += rows * own.out_stride;
        num_rows -= rows;
    }
}

static inline int64_t within(int64_t value, int64_t end) {
    return value < 0 ? 0 : value < end ? value : end;
}

typedef struct {
    const Kind *kind;
    const uint16_t *matrices;
    int64_t matrix_stride, line_stride;
    const uint16_t *x;
    int64_t x_stride, num_columns, num_outputs;
    const int64_t *runs;
    int64_t num_runs;
    const uint16_t *bias;
    int64_t bias_stride;
    uint16_t *out;
    int64_t num_groups; /* of lines */
    int64_t work, num_pieces;
} Call;

/* Work is counted in rows times groups of lines; reading a group takes as long as some rows. */
static int64_t work_of(const Kind *kind, const int64_t *run) {
    return kind->reading + run[2] - run[1];
}

static void multiply_piece(const void *work, int64_t piece, int64_t thread) {
    const Call *call = work;
    int64_t from = call->work * piece / call->num_pieces;
    int64_t to = call->work * (piece + 1) / call->num_pieces;
    (void)thread;
    for (int64_t r = 0; r < call->num_runs; r++) {
        const int64_t *run = call->runs + 3 * r;
        int64_t each = work_of(call->kind, run);
        int64_t first = within((from + each - 1) / each, call->num_groups);
        int64_t end = within((to + each - 1) / each, call->num_groups);
        from -= call->num_groups * each;
        to -= call->num_groups * each;
        for (int64_t row = run[1]; row < run[2]; row += BLOCK) {
            for (int64_t line = first * LINES; line < end * LINES; line += LINES) {
                const uint16_t *matrix = call->matrices + run[0] * call->matrix_stride;
                Tile own = {matrix + line * call->line_stride,
                            call->line_stride,
                            (int)within(call->num_outputs - line, LINES),
                            call->x + row * call->x_stride,
                            call->x_stride,
                            call->num_columns,
                            call->bias ? call->bias + run[0] * call->bias_stride + line : 0,
                            call->out + row * call->num_outputs + line,
                            call->num_outputs};
                multiply_lines(call->kind, own, within(run[2] - row, BLOCK));
            }
        }
    }
}

/* Runs of rows, each times its own matrix.

   matrices: (…, num_outputs, num_columns) bfloat16, lines contiguous
   x: (n, num_columns) bfloat16, rows contiguous
   runs: num_runs times matrix, first row, end   bias: (…, num_outputs) bfloat16, or NULL
   out: (n, num_outputs) bfloat16, contiguous. Strides count numbers.
   has_dots: whether the CPU has AVX-512 BF16 */
void expertpool_products(const uint16_t *matrices, int64_t matrix_stride, int64_t line_stride,
                         const uint16_t *x, int64_t x_stride, int64_t num_columns,
                         int64_t num_outputs, const int64_t *runs, int64_t num_runs,
                         const uint16_t *bias, int64_t bias_stride, uint16_t *out,
                         int64_t has_dots, int64_t num_threads) {
    const Kind *kind = kinds + has_dots;
    int64_t num_groups = (num_outputs + LINES - 1) / LINES, work = 0;
    for (int64_t r = 0; r < num_runs; r++) work += num_groups * work_of(kind, runs + 3 * r);
    /* Threads take pieces of equal work: few, as each reads on behind its end. */
    int64_t num_pieces = within(work * num_columns / LEAST + 1, PIECES * num_threads);
    Call call = {kind, matrices, matrix_stride, line_stride, x,           x_stride,
                 num_columns, num_outputs, runs,        num_runs,    bias,
                 bias_stride, out,         num_groups,  work,        num_pieces};
    share(multiply_piece, &call, num_pieces, num_threads);
}
#endif
