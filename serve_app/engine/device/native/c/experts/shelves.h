/* What a call for experts is given, and how it is laid out. See parts.c. */

#pragma once

#include "streams.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define PIECES 2      /* pieces of work for each thread; each costs a visit to every part */
#define MANY_PAIRS 128 /* whose sums would not stay near, were pieces that large */
#define PIECES_OF_MANY 4
#define LEAST 16384   /* numbers of x that are worth a piece */
#define LEAST_LINES 16

enum { DENSE, PLANES, FACTORS, CHANGES };

typedef struct {
    const uint8_t *codes; /* (P, O, bytes of a line) */
    int64_t width;        /* in bits: 1, 2, 4 or 8 */
    int64_t shift;        /* its codes count 1 << shift */
    int64_t is_fine;      /* whether x has 15 bits */
} Plane;

/* One matrix of all parts of a shelf. P: its rows. */
typedef struct {
    int64_t kind;
    const int64_t *map; /* of each entry: which of the P parts, or -1 */
    int64_t num_parts;
    const uint16_t *matrix; /* DENSE: (P, O, I)   FACTORS: the right ones, (P, R, I)
                               CHANGES: those that parts change, (…, O, I) */
    const uint16_t *left;   /* FACTORS: (P, R, O) */
    int64_t rank;
    Plane planes[MOST_PLANES];
    int64_t num_planes;
    const uint16_t *scales; /* PLANES: (P, O, groups) */
    const int64_t *bases;   /* CHANGES: of each entry, which matrix its part changes */
    const int32_t *starts;  /* CHANGES: where each line's begin, and the last one's end; (P, O + 1) */
    const uint8_t *gaps;    /* CHANGES: columns between a change and the one before it; (P, room) */
    const uint8_t *bits;    /* CHANGES, instead: which columns change; (P, O, bytes of I bits) */
    const uint16_t *values; /* CHANGES: (P, room) */
    int64_t room;
    const uint16_t *bias;   /* (P, O), or NULL */
    const float *wide_bias; /* (P, O), or NULL */
} Shelf;

/* A linear layer of all experts. */
typedef struct {
    const Shelf *shelves;
    int64_t num_shelves, num_columns, num_outputs;
} Linear;

/* What stands between two linear layers: with g = min(gate, limit) and u = up within ± limit,
   (u + shift) · g / (1 + exp(-slope · g)). */
typedef struct {
    double limit, slope, shift;
    int64_t by_turns; /* whether gate and up stand side by side; else all gates come first */
} Gate;

/* One linear layer, or two with a gate between them. */
typedef struct {
    const Linear *linears;
    int64_t num_linears;
    const Gate *gate;
    const int64_t *entries; /* of each pair of a row of x and an expert: its place in the maps */
    int64_t num_pairs, pairs_of_row;
    const uint16_t *x;   /* (num_pairs / pairs_of_row, I) */
    const void *weights; /* of each pair, or NULL */
    int64_t has_wide_weights; /* in float32, not bfloat16 */
    uint16_t *out; /* (num_pairs / pairs_of_row, O), weighted sums; without weights (num_pairs, O) */
    uint8_t *scratch;
    int64_t scratch_size, num_threads;
    int64_t has_vnni, has_dots; /* instructions of the CPU */
} Call;

/* Pairs that share a part: order[first] to order[end]. */
typedef struct {
    const Shelf *shelf;
    int64_t part, first, end;
    float *inner; /* FACTORS: x times the right factor, (pairs of the run, R) */
} Run;

/* One linear layer of a call. */
typedef struct {
    const Call *call;
    const Linear *linear;
    const Gate *gate; /* what its outputs go through, or NULL */
    const uint16_t *x;
    int64_t pairs_of_row, num_groups, num_rows;
    uint16_t *out;
    const void *weights;
    Run *runs;
    int64_t num_runs;
    int64_t *order, *ends;
    float *inner;
    Streams coarse, fine;
    float *sums; /* (num_threads, num_pairs, lines of a piece and some) */
    float *room; /* of each thread, for the x of a tile */
    int64_t num_neurons, neurons_of_piece, lines_of_neuron, num_pieces, rows_of_piece;
    int64_t sums_of_thread, sums_of_pair, room_of_thread;
} Work;

static inline int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

/* Hands out parts of the scratch. Without a scratch it only counts. */
typedef struct {
    uint8_t *base;
    int64_t taken;
} Room;

static void *take(Room *room, int64_t num_bytes) {
    void *found = room->base ? room->base + room->taken : 0;
    room->taken += (num_bytes + 63) / 64 * 64;
    return found;
}

static int64_t total_rank(const Linear *linear) {
    int64_t size = 0;
    for (int64_t s = 0; s < linear->num_shelves; s++) size += linear->shelves[s].rank;
    return size;
}

static int64_t most_parts(const Linear *linear) {
    int64_t most = 0;
    for (int64_t s = 0; s < linear->num_shelves; s++)
        if (linear->shelves[s].num_parts > most) most = linear->shelves[s].num_parts;
    return most;
}

/* The most digits of x that the planes of a shelf meet. */
static int64_t most_digits(const Linear *linear) {
    int64_t most = 0;
    for (int64_t s = 0; s < linear->num_shelves; s++) {
        const Shelf *shelf = linear->shelves + s;
        int64_t num = shelf->num_planes;
        for (int64_t p = 0; p < shelf->num_planes; p++) num += shelf->planes[p].is_fine != 0;
        if (num > most) most = num;
    }
    return most;
}

/* Whether any plane of a shelf is computed in 15 bits: then all of them use its high digits. */
static int is_fine(const Shelf *shelf) {
    int found = 0;
    for (int64_t p = 0; p < shelf->num_planes; p++) found |= shelf->planes[p].is_fine != 0;
    return found;
}

static Streams streams_for(const Linear *linear, Room *room, int64_t num_groups, int fine) {
    Streams streams = {0};
    int is_needed = 0, high[4] = {0}, low[4] = {0};
    for (int64_t s = 0; s < linear->num_shelves; s++)
        for (int64_t p = 0; p < linear->shelves[s].num_planes; p++) {
            const Shelf *shelf = linear->shelves + s;
            if (is_fine(shelf) != fine) continue;
            is_needed = high[place_of_width(shelf->planes[p].width)] = 1;
            low[place_of_width(shelf->planes[p].width)] |= fine;
        }
    for (int w = 0; w < 4; w++) {
        if (high[w]) streams.high[w] = take(room, num_groups * GROUP);
        if (low[w]) streams.low[w] = take(room, num_groups * GROUP);
    }
    if (is_needed) {
        streams.sizes = take(room, num_groups * (int64_t)sizeof(float));
        streams.sums = take(room, num_groups * (int64_t)sizeof(float));
        streams.high_sums = take(room, num_groups * (int64_t)sizeof(float));
    }
    return streams;
}

/* How the outputs are cut into pieces for the threads. Lines of one neuron stay together. */
static void cut(Work *work) {
    const Call *call = work->call;
    const int64_t of_thread = call->num_pairs > MANY_PAIRS ? PIECES_OF_MANY : PIECES;
    const int64_t num_pieces = of_thread * call->num_threads;
    work->lines_of_neuron = work->gate ? 2 : 1;
    work->num_neurons = work->linear->num_outputs / work->lines_of_neuron;
    int64_t each = (work->num_neurons + num_pieces - 1) / num_pieces;
    work->neurons_of_piece = (each + LEAST_LINES - 1) / LEAST_LINES * LEAST_LINES;
    work->num_pieces = (work->num_neurons + work->neurons_of_piece - 1) / work->neurons_of_piece;
    work->sums_of_pair = work->neurons_of_piece * work->lines_of_neuron;
    work->sums_of_thread = (call->num_pairs + 1) * work->sums_of_pair; /* endings read on a little */
    /* Scales and offsets of groups, and x in bytes: both for ROWS rows. */
    work->room_of_thread = (2 + most_digits(work->linear) * GROUP / 4) * work->num_groups * ROWS;
    work->rows_of_piece = LEAST / work->linear->num_columns + 1;
}

/* What a linear layer works with, laid out in the room. */
static void lay_out(Work *work, Room *room) {
    const Call *call = work->call;
    const Linear *linear = work->linear;
    const int64_t num_runs = linear->num_shelves * call->num_pairs;
    work->num_groups = (linear->num_columns + GROUP - 1) / GROUP;
    work->num_rows = call->num_pairs / work->pairs_of_row;
    work->num_runs = 0;
    cut(work);
    work->runs = take(room, num_runs * (int64_t)sizeof(Run));
    work->order = take(room, num_runs * (int64_t)sizeof(int64_t));
    work->ends = take(room, most_parts(linear) * (int64_t)sizeof(int64_t));
    work->sums = take(room, call->num_threads * work->sums_of_thread * (int64_t)sizeof(float));
    work->room = take(room, call->num_threads * work->room_of_thread * (int64_t)sizeof(float));
    work->inner = take(room, total_rank(linear) * call->num_pairs * (int64_t)sizeof(float));
    work->coarse = streams_for(linear, room, work->num_rows * work->num_groups, 0);
    work->fine = streams_for(linear, room, work->num_rows * work->num_groups, 1);
}

/* The pairs of each part of a shelf, in their order. */
static void add_runs(Work *work, const Shelf *shelf, int64_t start) {
    const Call *call = work->call;
    int64_t *ends = work->ends; /* of the pairs of each part; while they are placed, the next */
    memset(ends, 0, (size_t)shelf->num_parts * sizeof *ends);
    for (int64_t pair = 0; pair < call->num_pairs; pair++) {
        int64_t part = shelf->map[call->entries[pair]];
        if (part >= 0) ends[part]++;
    }
    for (int64_t part = 0, first = start; part < shelf->num_parts; part++) {
        int64_t num = ends[part];
        ends[part] = first;
        first += num;
    }
    for (int64_t pair = 0; pair < call->num_pairs; pair++) {
        int64_t part = shelf->map[call->entries[pair]];
        if (part >= 0) work->order[ends[part]++] = pair;
    }
    for (int64_t part = 0, first = start; part < shelf->num_parts; first = ends[part++]) {
        if (ends[part] == first) continue;
        work->runs[work->num_runs++] = (Run){shelf, part, first, ends[part], work->inner};
        work->inner += (ends[part] - first) * shelf->rank;
    }
}
#endif
