/* Experts that are sums of parts, on x86 CPUs with AVX2. parts.py calls it.

   A call is for all shelves of a layer, and for both of its linear layers, with the gate between
   them and the weighted sum behind them. What the parts of an expert give is added up in float32
   and rounded once. The outputs of a linear layer are cut into pieces, and whoever takes a piece
   adds all parts to it, so no two threads write to one place and each reads its share of every
   matrix. Every number is summed in one order, whatever other rows there are and however many
   threads. */

#include "crew.h"
#include "endings.h"
#include "lines.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define BLOCK 96 /* rows that a line meets before the next line: L2 holds them */

static void fill_rows(const void *shared, int64_t piece, int64_t thread) {
    const Work *work = shared;
    (void)thread;
    int64_t end = least_of((piece + 1) * work->rows_of_piece, work->num_rows);
    for (int64_t row = piece * work->rows_of_piece; row < end; row++)
        fill_streams(&work->coarse, &work->fine, work->x + row * work->linear->num_columns, row,
                     work->linear->num_columns);
}

/* Lines of a run's part, and where their sums go. */
typedef struct {
    const Work *work;
    const Run *run;
    int64_t first, end;
    float *sums; /* of the first line, for pair 0 */
} Lines;

/* A few lines of a matrix by up to BLOCK rows, at most MOST at a time and as evenly as can be.
   out: pointers, one number for each line */
AVX2 static void dense_rows(const uint16_t *lines, int64_t num_lines, int64_t num_columns,
                            const uint16_t *const *rows, int64_t num_rows, float *const *out,
                            int64_t place) {
    for (int64_t left = (num_rows + MOST - 1) / MOST; left; left--) {
        int64_t num = num_rows / left;
        __m128 found[MOST];
        if (num == 1) sums_of_lines(lines, num_columns, num_lines, rows, 1, num_columns, found);
        if (num == 2) sums_of_lines(lines, num_columns, num_lines, rows, 2, num_columns, found);
        if (num == 3) sums_of_lines(lines, num_columns, num_lines, rows, 3, num_columns, found);
        for (int r = 0; r < num; r++) {
            float four[LINES];
            _mm_storeu_ps(four, found[r]);
            for (int64_t l = 0; l < num_lines; l++) out[r][place + l] += four[l];
        }
        rows += num;
        out += num;
        num_rows -= num;
    }
}

/* The run's pairs by lines of a dense matrix. out: of the first line, by pair or, for inner
   products, by place in the run; out_stride: from one to the next */
static void dense_run(const Work *work, const Run *run, const uint16_t *matrix, int64_t num_lines,
                      float *out, int64_t out_stride, int by_pair) {
    const int64_t num_columns = work->linear->num_columns;
    for (int64_t i = run->first; i < run->end; i += BLOCK) {
        const uint16_t *rows[BLOCK];
        float *outs[BLOCK];
        int64_t num = least_of(run->end - i, BLOCK);
        for (int64_t r = 0; r < num; r++) {
            int64_t pair = work->order[i + r];
            rows[r] = work->x + pair / work->pairs_of_row * num_columns;
            outs[r] = out + (by_pair ? pair : i + r - run->first) * out_stride;
        }
        for (int64_t line = 0; line < num_lines; line += LINES)
            dense_rows(matrix + line * num_columns, least_of(num_lines - line, LINES), num_columns,
                       rows, num, outs, line);
    }
}

/* A line of the matrix that a part changes, as the part has it. */
static void fill_changed(const Work *work, const Run *run, int64_t line, uint16_t *found) {
    const Shelf *shelf = run->shelf;
    const int64_t num_columns = work->linear->num_columns;
    const int64_t num_outputs = work->linear->num_outputs;
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
static void changes_run(const Lines *own) {
    const Work *work = own->work;
    const int64_t num_columns = work->linear->num_columns;
    uint16_t lines[LINES * num_columns];
    for (int64_t line = own->first; line < own->end; line += LINES) {
        int64_t num = least_of(own->end - line, LINES);
        for (int64_t l = 0; l < num; l++)
            fill_changed(work, own->run, line + l, lines + l * num_columns);
        dense_run(work, own->run, lines, num, own->sums + line - own->first, work->sums_of_pair, 1);
    }
}

static void multiply_inner(const void *shared, int64_t piece, int64_t thread) {
    const Work *work = shared;
    const Run *run = work->runs + piece;
    (void)thread;
    if (run->shelf->kind != FACTORS) return;
    int64_t rank = run->shelf->rank;
    memset(run->inner, 0, (size_t)((run->end - run->first) * rank) * sizeof(float));
    dense_run(work, run, run->shelf->matrix + run->part * rank * work->linear->num_columns, rank,
              run->inner, rank, 0);
}

AVX2 static void factors_run(const Lines *own) {
    const Run *run = own->run;
    const Shelf *shelf = run->shelf;
    const int64_t num_outputs = own->work->linear->num_outputs, num = own->end - own->first;
    const uint16_t *left = shelf->left + run->part * shelf->rank * num_outputs + own->first;
    for (int64_t i = run->first; i < run->end; i++) {
        float *out = own->sums + own->work->order[i] * own->work->sums_of_pair;
        const float *inner = run->inner + (i - run->first) * shelf->rank;
        for (int64_t k = 0; k < shelf->rank; k++)
            for (int64_t line = 0; line < num; line++)
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
AVX2 static void planes_run(const Lines *own) {
    const Work *work = own->work;
    const Run *run = own->run;
    const Shelf *shelf = run->shelf;
    const int64_t num_groups = work->num_groups;
    const int64_t line = run->part * work->linear->num_outputs + own->first;
    const int fine = is_fine(shelf);
    const Streams *streams = fine ? &work->fine : &work->coarse;
    __m128 offsets[num_groups];
    Tile tile = {.num_planes = shelf->num_planes,
                 .num_groups = num_groups,
                 .num_lines = own->end - own->first,
                 .scales = shelf->scales + line * num_groups,
                 .offsets = offsets};
    for (int64_t i = run->first; i < run->end; i += ROWS) {
        const int num = (int)least_of(run->end - i, ROWS);
        int64_t at[ROWS];
        for (int r = 0; r < num; r++) {
            int64_t pair = work->order[i + r];
            at[r] = pair / work->pairs_of_row * num_groups;
            tile.sizes[r] = streams->sizes + at[r];
            tile.out[r] = own->sums + pair * work->sums_of_pair;
        }
        for (int64_t p = 0; p < shelf->num_planes; p++) {
            const Plane *plane = shelf->planes + p;
            const int w = place_of_width(plane->width);
            TilePlane *one = tile.planes + p;
            one->line_bytes = (work->linear->num_columns * plane->width + 7) / 8;
            one->codes = plane->codes + line * one->line_bytes;
            one->width = plane->width;
            one->shift = plane->shift + (fine && !plane->is_fine ? 7 : 0);
            for (int r = 0; r < num; r++) {
                one->high[r] = streams->high[w] + at[r] * GROUP;
                one->low[r] = plane->is_fine ? streams->low[w] + at[r] * GROUP : 0;
            }
        }
        fill_offsets(shelf, streams, fine, at, num, num_groups, offsets);
        tile_products_of[work->call->has_vnni][kind_of_tile(&tile)][num - 1](&tile);
    }
}

AVX2 static void add_bias(const Lines *own) {
    const Run *run = own->run;
    const Shelf *shelf = run->shelf;
    const int64_t start = run->part * own->work->linear->num_outputs + own->first;
    for (int64_t i = run->first; i < run->end; i++) {
        float *out = own->sums + own->work->order[i] * own->work->sums_of_pair;
        for (int64_t line = 0; line < own->end - own->first; line++)
            out[line] += shelf->bias ? widened(shelf->bias[start + line])
                                     : shelf->wide_bias[start + line];
    }
}

static void multiply_lines(const Work *work, int64_t first, int64_t end, float *sums) {
    const Linear *linear = work->linear;
    for (int64_t r = 0; r < work->num_runs; r++) {
        const Run *run = work->runs + r;
        const Shelf *shelf = run->shelf;
        const Lines own = {work, run, first, end, sums};
        if (shelf->kind == DENSE)
            dense_run(work, run,
                      shelf->matrix +
                          (run->part * linear->num_outputs + first) * linear->num_columns,
                      end - first, sums, work->sums_of_pair, 1);
        if (shelf->kind == FACTORS) factors_run(&own);
        if (shelf->kind == CHANGES) changes_run(&own);
        if (shelf->kind == PLANES) planes_run(&own);
        if (shelf->bias || shelf->wide_bias) add_bias(&own);
    }
}

static void multiply_piece(const void *shared, int64_t piece, int64_t thread) {
    const Work *work = shared;
    const int64_t first = piece * work->neurons_of_piece;
    const int64_t end = least_of(first + work->neurons_of_piece, work->num_neurons);
    float *sums = work->sums + thread * work->sums_of_thread;
    memset(sums, 0, (size_t)work->sums_of_thread * sizeof *sums);
    if (!work->gate) {
        multiply_lines(work, first, end, sums);
    } else if (work->gate->by_turns) {
        multiply_lines(work, 2 * first, 2 * end, sums);
    } else {
        multiply_lines(work, first, end, sums);
        multiply_lines(work, work->num_neurons + first, work->num_neurons + end,
                       sums + end - first);
    }
    const Sums found = {sums, first, end};
    if (work->gate)
        put_gated(work, &found);
    else if (work->weights)
        put_weighted(work, &found);
    else
        put_pairs(work, &found);
}

static void multiply(Work *work) {
    const Call *call = work->call;
    const Linear *linear = work->linear;
    for (int64_t s = 0; s < linear->num_shelves; s++)
        add_runs(work, linear->shelves + s, s * call->num_pairs);
    if (work->coarse.sizes || work->fine.sizes)
        share(fill_rows, work, (work->num_rows + work->rows_of_piece - 1) / work->rows_of_piece,
              call->num_threads);
    if (total_rank(linear)) share(multiply_inner, work, work->num_runs, call->num_threads);
    share(multiply_piece, work, work->num_pieces, call->num_threads);
}

/* -> how large a scratch it needs. If the call's is smaller, nothing is done. */
int64_t expertpool_parts(const Call *call) {
    Room room = {call->scratch, 0};
    Work works[2];
    int64_t size = 0;
    uint16_t *between = 0;
    if (call->num_linears == 2)
        between = take(&room, call->num_pairs * call->linears[1].num_columns * 2);
    for (int64_t l = 0; l < call->num_linears; l++) {
        const int is_first = l == 0, is_last = l == call->num_linears - 1;
        Room own = room;
        works[l] = (Work){.call = call,
                          .linear = call->linears + l,
                          .gate = is_last ? 0 : call->gate,
                          .weights = is_last ? call->weights : 0,
                          .x = is_first ? call->x : between,
                          .pairs_of_row = is_first ? call->pairs_of_row : 1,
                          .out = is_last ? call->out : between};
        lay_out(works + l, &own);
        if (own.taken > size) size = own.taken;
    }
    if (size <= call->scratch_size)
        for (int64_t l = 0; l < call->num_linears; l++) multiply(works + l);
    return size;
}
#endif
