/* Linear layers of experts that are sums of parts, on x86 CPUs with AVX2. parts.py calls it.

   All shelves of a layer are multiplied in one call: what the parts of an expert give is added up
   in float32 and rounded once. The outputs are cut into pieces, and whoever takes a piece adds all
   parts to it, so no two threads write to one place and each reads its share of every matrix.
   Every number is summed in one order, whatever other rows there are and however many threads. */

#include "crew.h"
#include "lines.h"
#include "shelves.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define PIECES 4      /* pieces of work for each thread */
#define LEAST 16384   /* numbers of x that are worth a piece */
#define LEAST_LINES 16

int64_t expertpool_parts_scratch(const Call *call) {
    Work work;
    float *inner;
    Call unplaced = *call;
    unplaced.scratch = 0;
    return lay_out(&work, &unplaced, &inner);
}

static void fill_rows(const void *shared, int64_t piece, int64_t thread) {
    const Work *work = shared;
    (void)thread;
    int64_t end = least_of((piece + 1) * work->rows_of_piece, work->num_rows);
    for (int64_t row = piece * work->rows_of_piece; row < end; row++)
        fill_streams(&work->coarse, &work->fine, work->call->x + row * work->call->num_columns, row,
                     work->call->num_columns);
}

/* Up to MOST rows of x by all lines of a matrix.   out: pointers, one number for each line */
AVX2 static void dense_rows(const uint16_t *matrix, int64_t num_columns, int64_t first, int64_t end,
                            const uint16_t *const *rows, int num_rows, float *const *out) {
    for (int64_t line = first; line < end; line += LINES) {
        const uint16_t *lines = matrix + line * num_columns;
        int64_t num = least_of(end - line, LINES);
        __m128 found[MOST];
        if (num_rows == 1) sums_of_lines(lines, num_columns, num, rows, 1, num_columns, found);
        if (num_rows == 2) sums_of_lines(lines, num_columns, num, rows, 2, num_columns, found);
        if (num_rows == 3) sums_of_lines(lines, num_columns, num, rows, 3, num_columns, found);
        for (int r = 0; r < num_rows; r++) {
            float four[LINES];
            _mm_storeu_ps(four, found[r]);
            for (int64_t l = 0; l < num; l++) out[r][line + l] += four[l];
        }
    }
}

static const uint16_t *row_of(const Work *work, int64_t pair) {
    return work->call->x + pair / work->call->pairs_of_row * work->call->num_columns;
}

/* The run's pairs by lines of a dense matrix, a few at a time. out: (…, out_stride), by pair or,
   for inner products, by place in the run */
static void dense_run(const Work *work, const Run *run, const uint16_t *matrix, int64_t first,
                      int64_t end, float *out, int64_t out_stride, int by_pair) {
    int64_t num_columns = work->call->num_columns;
    for (int64_t i = run->first; i < run->end; i += MOST) {
        const uint16_t *rows[MOST];
        float *outs[MOST];
        int num = (int)least_of(run->end - i, MOST);
        for (int r = 0; r < num; r++) {
            int64_t pair = work->order[i + r];
            rows[r] = row_of(work, pair);
            outs[r] = out + (by_pair ? pair : i + r - run->first) * out_stride;
        }
        dense_rows(matrix, num_columns, first, end, rows, num, outs);
    }
}

/* A line of the matrix that a part changes, as the part has it. */
static void fill_changed(const Work *work, const Run *run, int64_t line, uint16_t *found) {
    const Shelf *shelf = run->shelf;
    const int64_t num_columns = work->call->num_columns, num_outputs = work->call->num_outputs;
    const int64_t base = shelf->bases[work->call->entries[work->order[run->first]]];
    const int32_t *starts = shelf->starts + run->part * (num_outputs + 1) + line;
    const uint16_t *values = shelf->values + run->part * shelf->room;
    const int64_t end = least_of(starts[1], shelf->room), line_bytes = (num_columns + 7) / 8;
    memcpy(found, shelf->matrix + (base * num_outputs + line) * num_columns,
           (size_t)num_columns * sizeof *found);
    if (shelf->gaps) {
        const uint8_t *gaps = shelf->gaps + run->part * shelf->room;
        int64_t column = -1;
        for (int64_t e = starts[0]; e < end; e++) {
            column += gaps[e] + 1;
            if (column < num_columns) found[column] = values[e];
        }
        return;
    }
    const uint8_t *bits = shelf->bits + (run->part * num_outputs + line) * line_bytes;
    int64_t e = starts[0];
    for (int64_t byte = 0; byte < line_bytes; byte++)
        for (unsigned left = bits[byte]; left && e < end; left &= left - 1, e++) {
            int64_t column = 8 * byte + __builtin_ctz(left);
            if (column < num_columns) found[column] = values[e];
        }
}

/* As dense_run, of lines that are made a few at a time. */
static void changes_run(const Work *work, const Run *run, int64_t first, int64_t end) {
    const int64_t num_columns = work->call->num_columns, num_outputs = work->call->num_outputs;
    uint16_t lines[LINES * num_columns];
    for (int64_t line = first; line < end; line += LINES) {
        int64_t num = least_of(end - line, LINES);
        for (int64_t l = 0; l < num; l++) fill_changed(work, run, line + l, lines + l * num_columns);
        dense_run(work, run, lines, 0, num, work->sums + line, num_outputs, 1);
    }
}

static void multiply_inner(const void *shared, int64_t piece, int64_t thread) {
    const Work *work = shared;
    const Run *run = work->runs + piece;
    (void)thread;
    if (run->shelf->kind != FACTORS) return;
    int64_t rank = run->shelf->rank;
    memset(run->inner, 0, (size_t)((run->end - run->first) * rank) * sizeof(float));
    dense_run(work, run, run->shelf->matrix + run->part * rank * work->call->num_columns, 0, rank,
              run->inner, rank, 0);
}

AVX2 static void factors_run(const Work *work, const Run *run, int64_t first, int64_t end) {
    const Shelf *shelf = run->shelf;
    int64_t num_outputs = work->call->num_outputs;
    const uint16_t *left = shelf->left + run->part * shelf->rank * num_outputs;
    for (int64_t i = run->first; i < run->end; i++) {
        float *out = work->sums + work->order[i] * num_outputs;
        const float *inner = run->inner + (i - run->first) * shelf->rank;
        for (int64_t k = 0; k < shelf->rank; k++)
            for (int64_t line = first; line < end; line++)
                out[line] += widened(left[k * num_outputs + line]) * inner[k];
    }
}

/* What is taken off for each group of rows of x, as half levels count in every plane. */
AVX2 static void fill_offsets(const Shelf *shelf, const Streams *streams, int fine,
                              const int64_t at[ROWS], int num_rows, int64_t num_groups,
                              __m128 *offsets) {
    for (int64_t group = 0; group < num_groups; group++) {
        float four[ROWS] = {0};
        for (int64_t p = 0; p < shelf->num_planes; p++) {
            const Plane *plane = shelf->planes + p;
            const float *sums = fine && !plane->is_fine ? streams->high_sums : streams->sums;
            float half = (float)((1 << plane->width) - 1) / 2 * (float)(1 << plane->shift);
            for (int r = 0; r < num_rows; r++) four[r] += half * sums[at[r] + group];
        }
        offsets[group] = _mm_loadu_ps(four);
    }
}

/* A part by the run's pairs, a few at a time: their x stays near. */
AVX2 static void planes_run(const Work *work, const Run *run, int64_t first, int64_t end) {
    const Call *call = work->call;
    const Shelf *shelf = run->shelf;
    const int64_t num_groups = work->num_groups, line = run->part * call->num_outputs + first;
    const int fine = is_fine(shelf);
    const Streams *streams = fine ? &work->fine : &work->coarse;
    __m128 offsets[num_groups];
    Tile tile = {.num_planes = shelf->num_planes,
                 .num_groups = num_groups,
                 .num_lines = end - first,
                 .scales = shelf->scales + line * num_groups,
                 .offsets = offsets};
    for (int64_t i = run->first; i < run->end; i += ROWS) {
        const int num = (int)least_of(run->end - i, ROWS);
        int64_t at[ROWS];
        for (int r = 0; r < num; r++) {
            int64_t pair = work->order[i + r];
            at[r] = pair / call->pairs_of_row * num_groups;
            tile.sizes[r] = streams->sizes + at[r];
            tile.out[r] = work->sums + pair * call->num_outputs + first;
        }
        for (int64_t p = 0; p < shelf->num_planes; p++) {
            const Plane *plane = shelf->planes + p;
            const int w = place_of_width(plane->width);
            TilePlane *own = tile.planes + p;
            own->line_bytes = (call->num_columns * plane->width + 7) / 8;
            own->codes = plane->codes + line * own->line_bytes;
            own->width = plane->width;
            own->shift = plane->shift + (fine && !plane->is_fine ? 7 : 0);
            for (int r = 0; r < num; r++) {
                own->high[r] = streams->high[w] + at[r] * GROUP;
                own->low[r] = plane->is_fine ? streams->low[w] + at[r] * GROUP : 0;
            }
        }
        fill_offsets(shelf, streams, fine, at, num, num_groups, offsets);
        tile_products_of[call->has_vnni][kind_of_tile(&tile)][num - 1](&tile);
    }
}

AVX2 static void add_bias(const Work *work, const Run *run, int64_t first, int64_t end) {
    int64_t num_outputs = work->call->num_outputs, start = run->part * num_outputs;
    const Shelf *shelf = run->shelf;
    for (int64_t i = run->first; i < run->end; i++) {
        float *out = work->sums + work->order[i] * num_outputs;
        for (int64_t line = first; line < end; line++)
            out[line] += shelf->bias ? widened(shelf->bias[start + line])
                                     : shelf->wide_bias[start + line];
    }
}

static void multiply_run(const Work *work, const Run *run, int64_t first, int64_t end) {
    const Shelf *shelf = run->shelf;
    const Call *call = work->call;
    if (shelf->kind == DENSE)
        dense_run(work, run, shelf->matrix + run->part * call->num_outputs * call->num_columns,
                  first, end, work->sums, call->num_outputs, 1);
    if (shelf->kind == FACTORS) factors_run(work, run, first, end);
    if (shelf->kind == CHANGES) changes_run(work, run, first, end);
    if (shelf->kind == PLANES) planes_run(work, run, first, end);
    if (shelf->bias || shelf->wide_bias) add_bias(work, run, first, end);
}

AVX2 static void multiply_piece(const void *shared, int64_t piece, int64_t thread) {
    const Work *work = shared;
    const Call *call = work->call;
    (void)thread;
    int64_t first = piece * work->lines_of_piece;
    int64_t end = least_of(first + work->lines_of_piece, call->num_outputs);
    for (int64_t pair = 0; pair < call->num_pairs; pair++)
        memset(work->sums + pair * call->num_outputs + first, 0,
               (size_t)(end - first) * sizeof(float));
    for (int64_t r = 0; r < work->num_runs; r++) multiply_run(work, work->runs + r, first, end);
    for (int64_t pair = 0; pair < call->num_pairs; pair++) {
        const float *sums = work->sums + pair * call->num_outputs;
        uint16_t *out = call->out + pair * call->num_outputs;
        for (int64_t line = first; line < end; line += 4) {
            float four[4] = {0};
            uint16_t rounded[4];
            size_t num = (size_t)least_of(end - line, 4);
            memcpy(four, sums + line, num * sizeof(float));
            rounded_four(_mm_loadu_ps(four), rounded);
            memcpy(out + line, rounded, num * sizeof *out);
        }
    }
}

void expertpool_parts(const Call *call) {
    Work work;
    float *inner;
    lay_out(&work, call, &inner);
    work.num_runs = 0;
    int has_factors = 0;
    for (int64_t s = 0; s < call->num_shelves; s++) {
        add_runs(&work, call->shelves + s, s * call->num_pairs, &inner);
        has_factors |= call->shelves[s].kind == FACTORS;
    }
    if (work.coarse.sizes || work.fine.sizes) {
        work.rows_of_piece = LEAST / call->num_columns + 1;
        share(fill_rows, &work, (work.num_rows + work.rows_of_piece - 1) / work.rows_of_piece,
              call->num_threads);
    }
    if (has_factors) share(multiply_inner, &work, work.num_runs, call->num_threads);
    int64_t num_pieces = PIECES * call->num_threads;
    work.lines_of_piece = (call->num_outputs + num_pieces - 1) / num_pieces;
    work.lines_of_piece = (work.lines_of_piece + LEAST_LINES - 1) / LEAST_LINES * LEAST_LINES;
    share(multiply_piece, &work,
          (call->num_outputs + work.lines_of_piece - 1) / work.lines_of_piece, call->num_threads);
}
#endif
