/* Products with bfloat16 matrices, on x86 CPUs with AVX2. products.py calls it.

   torch computes such products as dot products of bfloat16 where there is no AVX-512: their time
   grows with the rows. Here tiles of a few rows by a few lines of the matrix are converted to
   float32 in registers and summed there, as many sums as registers hold (after K. Goto, R. van de
   Geijn, Anatomy of high-performance matrix multiplication, 2008; nothing is packed, as operands
   of 16 bits are small and are read along the columns on both sides).

   Every number is summed in one order, whatever other rows there are and however many threads. */

#include "bfloat16.h"
#include "crew.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define LINES 4      /* outputs of a tile */
#define MOST 3       /* rows of a tile: with four lines twelve sums, of sixteen registers */
#define BLOCK 96     /* rows that all lines of a piece meet before others: L2 holds them */
#define AHEAD 8      /* lines of the matrix that are fetched ahead */
#define FETCH 32     /* numbers in a cache line */
#define READING 3    /* rows that take as long as reading the matrix from memory does */
#define PIECES 4     /* pieces of work for each thread */
#define LEAST 200000 /* products of numbers that are worth a piece */

/* Unrolled, so that sums stay in registers. */
#define EACH(index, num) _Pragma("GCC unroll 8") for (int index = 0; index < (num); index++)

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

/* Two of PAIR columns to each lane, first those of even number. The order of sums depends on this
   alone, and both operands are taken apart the same way. */
INLINE void add_products(__m256 sums[MOST][LINES], int num_rows,
                         const uint16_t *const lines[LINES], const uint16_t *const rows[MOST],
                         int64_t column) {
    __m256 row[MOST];
    EACH(r, num_rows) row[r] = widened_even(rows[r] + column);
    EACH(l, LINES) {
        __m256 line = widened_even(lines[l] + column);
        EACH(r, num_rows) add_product(&sums[r][l], line, row[r]);
    }
    EACH(r, num_rows) row[r] = widened_odd(rows[r] + column);
    EACH(l, LINES) {
        __m256 line = widened_odd(lines[l] + column);
        EACH(r, num_rows) add_product(&sums[r][l], line, row[r]);
    }
}

static inline const uint16_t *padded(uint16_t *room, const uint16_t *numbers, int64_t num) {
    return memcpy(room, numbers, (size_t)num * sizeof *numbers);
}

INLINE void tile(const Tile *own, int num_rows) {
    const uint16_t *lines[LINES], *rows[MOST];
    /* Where lines are fewer the last one is computed again, and not kept. */
    EACH(l, LINES)
        lines[l] = own->lines + (l < own->num_lines ? l : own->num_lines - 1) * own->line_stride;
    EACH(r, num_rows) rows[r] = own->x + r * own->x_stride;

    __m256 sums[MOST][LINES];
    EACH(r, num_rows)
        EACH(l, LINES) sums[r][l] = _mm256_setzero_ps();
    const uint16_t *next = own->lines + AHEAD * own->line_stride;
    int64_t rest = own->num_columns % PAIR, end = own->num_columns - rest;
    uint16_t room[LINES + MOST][PAIR];
    for (;;) {
        for (int64_t column = 0; column < end; column += PAIR) {
            for (int i = 0; i < PAIR * LINES; i += FETCH)
                _mm_prefetch((const char *)(next + LINES * column + i), _MM_HINT_T1);
            add_products(sums, num_rows, lines, rows, column);
        }
        if (!rest) break;
        /* Once more, with zeros behind the last columns. */
        memset(room, 0, sizeof room);
        EACH(l, LINES) lines[l] = padded(room[l], lines[l] + end, rest);
        EACH(r, num_rows) rows[r] = padded(room[LINES + r], rows[r] + end, rest);
        end = PAIR;
        rest = 0;
    }

    size_t num_bytes = (size_t)own->num_lines * sizeof *own->out;
    uint16_t four[LINES] = {0};
    if (own->bias) memcpy(four, own->bias, num_bytes);
    __m128 bias = widened_four(four);
    EACH(r, num_rows) {
        rounded_four(_mm_add_ps(totals(sums[r]), bias), four);
        memcpy(own->out + r * own->out_stride, four, num_bytes);
    }
}

AVX2 static void tile_of_1(const Tile *own) { tile(own, 1); }
AVX2 static void tile_of_2(const Tile *own) { tile(own, 2); }
AVX2 static void tile_of_3(const Tile *own) { tile(own, 3); }

/* All rows, at most MOST at a time and as evenly as can be. */
static void multiply_lines(Tile own, int64_t num_rows) {
    static void (*const tiles[MOST])(const Tile *) = {tile_of_1, tile_of_2, tile_of_3};
    for (int64_t left = (num_rows + MOST - 1) / MOST; left; left--) {
        int64_t rows = num_rows / left;
        tiles[rows - 1](&own);
        own.x += rows * own.x_stride;
        own.out += rows * own.out_stride;
        num_rows -= rows;
    }
}

static inline int64_t within(int64_t value, int64_t end) {
    return value < 0 ? 0 : value < end ? value : end;
}

typedef struct {
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
static int64_t work_of(const int64_t *run) { return READING + run[2] - run[1]; }

static void multiply_piece(const void *work, int64_t piece, int64_t thread) {
    const Call *call = work;
    int64_t from = call->work * piece / call->num_pieces;
    int64_t to = call->work * (piece + 1) / call->num_pieces;
    (void)thread;
    for (int64_t r = 0; r < call->num_runs; r++) {
        const int64_t *run = call->runs + 3 * r;
        int64_t each = work_of(run);
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
                multiply_lines(own, within(run[2] - row, BLOCK));
            }
        }
    }
}

/* Runs of rows, each times its own matrix.

   matrices: (…, num_outputs, num_columns) bfloat16, lines contiguous
   x: (n, num_columns) bfloat16, rows contiguous
   runs: num_runs times matrix, first row, end   bias: (…, num_outputs) bfloat16, or NULL
   out: (n, num_outputs) bfloat16, contiguous. Strides count numbers. */
void expertpool_products(const uint16_t *matrices, int64_t matrix_stride, int64_t line_stride,
                         const uint16_t *x, int64_t x_stride, int64_t num_columns,
                         int64_t num_outputs, const int64_t *runs, int64_t num_runs,
                         const uint16_t *bias, int64_t bias_stride, uint16_t *out,
                         int64_t num_threads) {
    int64_t num_groups = (num_outputs + LINES - 1) / LINES, work = 0;
    for (int64_t r = 0; r < num_runs; r++) work += num_groups * work_of(runs + 3 * r);
    /* Threads take pieces of equal work: few, as each reads on behind its end. */
    int64_t num_pieces = within(work * num_columns / LEAST + 1, PIECES * num_threads);
    Call call = {matrices, matrix_stride, line_stride, x,           x_stride,
                 num_columns, num_outputs, runs,        num_runs,    bias,
                 bias_stride, out,         num_groups,  work,        num_pieces};
    share(multiply_piece, &call, num_pieces, num_threads);
}
#endif
