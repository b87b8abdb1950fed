/* What a call for the linear layer of experts is given, and how it is laid out. See parts.c. */

#pragma once

#include "streams.h"

#if defined(__x86_64__) && defined(__GNUC__)

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

typedef struct {
    const Shelf *shelves;
    int64_t num_shelves;
    const int64_t *entries; /* of each pair of a row of x and an expert: its place in the maps */
    int64_t num_pairs, pairs_of_row;
    const uint16_t *x; /* (num_pairs / pairs_of_row, I) */
    int64_t num_columns, num_outputs;
    uint16_t *out; /* (num_pairs, O) */
    uint8_t *scratch;
    int64_t num_threads, has_vnni;
} Call;

/* Pairs that share a part: order[first] to order[end]. */
typedef struct {
    const Shelf *shelf;
    int64_t part, first, end;
    float *inner; /* FACTORS: x times the right factor, (pairs of the run, R) */
} Run;

typedef struct {
    const Call *call;
    Run *runs;
    int64_t num_runs;
    int64_t *order, *ends;
    Streams coarse, fine;
    int64_t num_groups, num_rows;
    float *sums; /* (num_pairs, O) */
    int64_t lines_of_piece, rows_of_piece;
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

static int64_t inner_size(const Call *call) {
    int64_t size = 0;
    for (int64_t s = 0; s < call->num_shelves; s++) size += call->shelves[s].rank;
    return size * call->num_pairs;
}

static int64_t most_parts(const Call *call) {
    int64_t most = 0;
    for (int64_t s = 0; s < call->num_shelves; s++)
        if (call->shelves[s].num_parts > most) most = call->shelves[s].num_parts;
    return most;
}

/* Whether any plane of a shelf is computed in 15 bits: then all of them use its high digits. */
static int is_fine(const Shelf *shelf) {
    int found = 0;
    for (int64_t p = 0; p < shelf->num_planes; p++) found |= shelf->planes[p].is_fine != 0;
    return found;
}

static Streams streams_for(const Call *call, Room *room, int64_t num_groups, int fine) {
    Streams streams = {0};
    int is_needed = 0, high[4] = {0}, low[4] = {0};
    for (int64_t s = 0; s < call->num_shelves; s++)
        for (int64_t p = 0; p < call->shelves[s].num_planes; p++) {
            if (is_fine(call->shelves + s) != fine) continue;
            is_needed = high[place_of_width(call->shelves[s].planes[p].width)] = 1;
            low[place_of_width(call->shelves[s].planes[p].width)] |= fine;
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

/* What a call works with, laid out in its scratch.  -> bytes of it */
static int64_t lay_out(Work *work, const Call *call, float **inner) {
    Room room = {call->scratch, 0};
    const int64_t num_runs = call->num_shelves * call->num_pairs;
    work->call = call;
    work->num_groups = (call->num_columns + GROUP - 1) / GROUP;
    work->num_rows = call->num_pairs / call->pairs_of_row;
    work->runs = take(&room, num_runs * (int64_t)sizeof(Run));
    work->order = take(&room, num_runs * (int64_t)sizeof(int64_t));
    work->ends = take(&room, most_parts(call) * (int64_t)sizeof(int64_t));
    work->sums = take(&room, call->num_pairs * call->num_outputs * (int64_t)sizeof(float));
    *inner = take(&room, inner_size(call) * (int64_t)sizeof(float));
    work->coarse = streams_for(call, &room, work->num_rows * work->num_groups, 0);
    work->fine = streams_for(call, &room, work->num_rows * work->num_groups, 1);
    return room.taken;
}

/* The pairs of each part of a shelf, in their order. */
static void add_runs(Work *work, const Shelf *shelf, int64_t start, float **inner) {
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
        work->runs[work->num_runs++] = (Run){shelf, part, first, ends[part], *inner};
        *inner += (ends[part] - first) * shelf->rank;
    }
}
#endif
