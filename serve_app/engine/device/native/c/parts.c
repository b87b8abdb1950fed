/* Experts that are sums of parts, on x86 CPUs with AVX2. parts.py calls it.

   A call is for all shelves of a layer, and for both of its linear layers, with the gate between
   them and the weighted sum behind them. What the parts of an expert give is added up in float32
   and rounded once. The outputs of a linear layer are cut into pieces, and whoever takes a piece
   adds all parts to it, so no two threads write to one place and each reads its share of every
   matrix. Every number is summed in one order, whatever other rows there are and however many
   threads. */

#include "crew.h"
#include "experts/endings.h"
#include "experts/runs.h"

#if defined(__x86_64__) && defined(__GNUC__)

static void fill_rows(const void *shared, int64_t piece, int64_t thread) {
    const Work *work = shared;
    (void)thread;
    int64_t end = least_of((piece + 1) * work->rows_of_piece, work->num_rows);
    for (int64_t row = piece * work->rows_of_piece; row < end; row++)
        fill_streams(&work->coarse, &work->fine, work->x + row * work->linear->num_columns, row,
                     work->linear->num_columns);
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

static void multiply_piece(const void *shared, int64_t piece, int64_t thread) {
    const Work *work = shared;
    const int64_t first = piece * work->neurons_of_piece;
    const int64_t end = least_of(first + work->neurons_of_piece, work->num_neurons);
    float *sums = work->sums + thread * work->sums_of_thread;
    float *room = work->room + thread * work->room_of_thread;
    memset(sums, 0, (size_t)work->sums_of_thread * sizeof *sums);
    if (!work->gate) {
        multiply_lines(work, first, end, sums, room);
    } else if (work->gate->by_turns) {
        multiply_lines(work, 2 * first, 2 * end, sums, room);
    } else {
        multiply_lines(work, first, end, sums, room);
        multiply_lines(work, work->num_neurons + first, work->num_neurons + end,
                       sums + end - first, room);
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
