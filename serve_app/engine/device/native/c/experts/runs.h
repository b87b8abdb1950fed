/* Products of the pairs that share a part by some of its lines, for each kind of part: parts.c. */

#pragma once

#include "../lines.h"
#include "shelves.h"
#include "tiles.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define BLOCK 96 /* rows that a line meets before the next line: L2 holds them */

/* Lines of a run's part, and where their sums go. */
typedef struct {
    const Work *work;
    const Run *run;
    int64_t first, end;
    float *sums; /* of the first line, for pair 0 */
    float *room; /* of the thread */
} Lines;

/* Few lines of a matrix by some rows, as evenly as can be.   out: pointers, one number a line */
typedef void (*DenseRows)(const uint16_t *lines, int64_t num_lines, int64_t num_columns,
                          const uint16_t *const *rows, int64_t num_rows, float *const *out,
                          int64_t place);

#define BY_ROWS(n, sums_by)                                                                        \
    {                                                                                              \
        sums_by(lines, num_columns, num_lines, rows, n, num_columns, found);                       \
    }
#define IF_ROWS(n, sums_by) if (num == n) BY_ROWS(n, sums_by) else
#define DENSE_ROWS(name, target, sums_by, most, if_more)                                           \
    target static void name(const uint16_t *lines, int64_t num_lines, int64_t num_columns,         \
                            const uint16_t *const *rows, int64_t num_rows, float *const *out,      \
                            int64_t place) {                                                       \
        for (int64_t left = (num_rows + most - 1) / most; left; left--) {                          \
            int64_t num = num_rows / left;                                                         \
            __m128 found[most];                                                                    \
            IF_ROWS(1, sums_by)                                                                    \
            IF_ROWS(2, sums_by)                                                                    \
            if_more BY_ROWS(most, sums_by)                                                         \
            for (int r = 0; r < num; r++) {                                                        \
                float four[LINES];                                                                 \
                _mm_storeu_ps(four, found[r]);                                                     \
                for (int64_t l = 0; l < num_lines; l++) out[r][place + l] += four[l];              \
            }                                                                                      \
            rows += num;                                                                           \
            out += num;                                                                            \
            num_rows -= num;                                                                       \
        }                                                                                          \
    }
DENSE_ROWS(dense_rows_by_lines, AVX2, sums_of_lines, MOST, )
DENSE_ROWS(dense_rows_by_dots, DOTS, dots_of_lines, MOST_DOTS, IF_ROWS(3, dots_of_lines))

/* The run's pairs by lines of a dense matrix. out: of the first line, by pair or, for inner
   products, by place in the run; out_stride: from one to the next */
static void dense_run(const Work *work, const Run *run, const uint16_t *matrix, int64_t num_lines,
                      float *out, int64_t out_stride, int by_pair) {
    const int64_t num_columns = work->linear->num_columns;
    const DenseRows dense_rows = work->call->has_dots ? dense_rows_by_dots : dense_rows_by_lines;
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

static inline int kind_of(const Shelf *shelf) {
    const Plane *upper = shelf->planes, *lower = upper + 1;
    if (shelf->num_planes == 2 && upper->width == 4 && upper->is_fine && lower->width == 4 &&
        !lower->is_fine)
        return SPLIT_BYTE;
    if (shelf->num_planes > 1 || upper->width == 8) return ANY;
    if (upper->is_fine) return upper->width == 4 ? FINE_FOUR_BITS : ANY;
    return upper->width == 1 ? ONE_BIT : upper->width == 2 ? TWO_BITS : FOUR_BITS;
}

/* The scales of x, and what is taken off for each group of rows of x, as half levels count in
   every plane. at: of each row, its first group */
AVX2 static void fill_groups(const Shelf *shelf, const Streams *streams, const int64_t at[ROWS],
                             int64_t num_rows, int64_t num_groups, float *sizes, float *offsets) {
    const int fine = is_fine(shelf);
    const int64_t step = takes_one(kind_of(shelf), num_rows) ? 1 : ROWS;
    const size_t room = (size_t)((num_groups * step + ROWS - 1) / ROWS * ROWS);
    memset(sizes, 0, room * sizeof *sizes);
    memset(offsets, 0, room * sizeof *offsets);
    for (int64_t r = 0; r < num_rows; r++)
        for (int64_t group = 0; group < num_groups; group++)
            sizes[group * step + r] = streams->sizes[at[r] + group];
    for (int64_t p = 0; p < shelf->num_planes; p++) {
        const Plane *plane = shelf->planes + p;
        const float *sums = fine && !plane->is_fine ? streams->high_sums : streams->sums;
        float half = (float)((1 << plane->width) - 1) / 2 * (float)(1 << plane->shift);
        for (int64_t r = 0; r < num_rows; r++)
            for (int64_t group = 0; group < num_groups; group++)
                offsets[group * step + r] += half * sums[at[r] + group];
    }
}

/* Rows of x side by side, as TilePlane has them. x: of all rows   at: as for fill_groups */
static const int8_t *side_by_side(const int8_t *x, const int64_t at[ROWS], int64_t num_rows,
                                  int64_t num_groups, int8_t **room) {
    if (num_rows == 1) return x + at[0] * GROUP;
    int8_t *found = *room;
    for (int64_t chunk = 0; chunk < num_groups * GROUP; chunk += CHUNK)
        for (int64_t r = 0; r < num_rows; r++, *room += CHUNK)
            memcpy(*room, x + at[r] * GROUP + chunk, CHUNK);
    return found;
}

/* The planes of a part from a line on, and the rows that meet them. at: as for fill_groups */
static void fill_planes(const Work *work, const Shelf *shelf, const Streams *streams, int64_t line,
                        const int64_t at[ROWS], int64_t num_rows, TilePlane *planes, int8_t *room) {
    const int fine = is_fine(shelf);
    for (int64_t p = 0; p < shelf->num_planes; p++) {
        const Plane *plane = shelf->planes + p;
        const int w = place_of_width(plane->width);
        TilePlane *own = planes + p;
        own->line_bytes = (work->linear->num_columns * plane->width + 7) / 8;
        own->codes = plane->codes + line * own->line_bytes;
        own->width = plane->width;
        own->shift = plane->shift + (fine && !plane->is_fine ? 7 : 0);
        own->low = 0;
        if (plane->is_fine)
            own->low = side_by_side(streams->low[w], at, num_rows, work->num_groups, &room);
        if (p && own->width == own[-1].width)
            own->high = own[-1].high;
        else
            own->high = side_by_side(streams->high[w], at, num_rows, work->num_groups, &room);
    }
}

/* A part by the run's pairs, a few at a time and as evenly as can be: their x stays near. */
AVX2 static void planes_run(const Lines *own) {
    const Work *work = own->work;
    const Run *run = own->run;
    const Shelf *shelf = run->shelf;
    const int64_t num_groups = work->num_groups;
    const int64_t line = run->part * work->linear->num_outputs + own->first;
    const Streams *streams = is_fine(shelf) ? &work->fine : &work->coarse;
    const int kind = kind_of(shelf);
    const int64_t most = most_rows(kind, work->call->has_vnni);
    float *sizes = own->room, *offsets = sizes + num_groups * ROWS;
    Tile tile = {.num_planes = shelf->num_planes,
                 .num_groups = num_groups,
                 .num_lines = own->end - own->first,
                 .scales = shelf->scales + line * num_groups,
                 .sizes = sizes,
                 .offsets = offsets};
    int64_t left = (run->end - run->first + most - 1) / most;
    for (int64_t i = run->first, num; i < run->end; i += num) {
        num = (run->end - i) / left--;
        int64_t at[ROWS];
        for (int64_t r = 0; r < num; r++) {
            int64_t pair = work->order[i + r];
            at[r] = pair / work->pairs_of_row * num_groups;
            tile.out[r] = own->sums + pair * work->sums_of_pair;
        }
        fill_planes(work, shelf, streams, line, at, num, tile.planes,
                    (int8_t *)(offsets + num_groups * ROWS));
        fill_groups(shelf, streams, at, num, num_groups, sizes, offsets);
        tile_products_of[work->call->has_vnni][kind][num - 1](&tile);
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

static void multiply_lines(const Work *work, int64_t first, int64_t end, float *sums,
                           float *room) {
    const Linear *linear = work->linear;
    for (int64_t r = 0; r < work->num_runs; r++) {
        const Run *run = work->runs + r;
        const Shelf *shelf = run->shelf;
        const Lines own = {work, run, first, end, sums, room};
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
#endif
