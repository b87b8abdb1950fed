/* Sums of a few rows by a few lines of a bfloat16 matrix: what dense products are made of.

   Tiles are converted to float32 in registers and summed there, as many sums as registers hold
   (after K. Goto, R. van de Geijn, Anatomy of high-performance matrix multiplication, 2008;
   nothing is packed, as operands of 16 bits are small and are read along the columns on both
   sides). Every sum is taken in one order, whatever other rows there are. */

#pragma once

#include "bfloat16.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define LINES 4 /* outputs of a tile */
#define MOST 3  /* rows of a tile: with four lines twelve sums, of sixteen registers */
#define AHEAD 8 /* lines of the matrix that are fetched ahead */
#define FETCH 32 /* numbers in a cache line */

/* Unrolled, so that sums stay in registers. */
#define EACH(index, num) _Pragma("GCC unroll 8") for (int index = 0; index < (num); index++)

/* Clang would keep the pairs of the first half for the second, in registers that sums then have to
   leave. GCC loads them again by itself, and does worse when told to. */
#ifdef __clang__
#define FORGET_LOADS() __asm__ volatile("" ::: "memory")
#else
#define FORGET_LOADS()
#endif

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
    FORGET_LOADS();
    EACH(r, num_rows) row[r] = widened_odd(rows[r] + column);
    EACH(l, LINES) {
        __m256 line = widened_odd(lines[l] + column);
        EACH(r, num_rows) add_product(&sums[r][l], line, row[r]);
    }
}

static inline const uint16_t *padded(uint16_t *room, const uint16_t *numbers, int64_t num) {
    return memcpy(room, numbers, (size_t)num * sizeof *numbers);
}

/* matrix: its next lines, of which num_lines count   rows: num_rows pointers
   found: (num_rows, LINES); where lines are fewer the last one is computed again. */
INLINE void sums_of_lines(const uint16_t *matrix, int64_t line_stride, int64_t num_lines,
                          const uint16_t *const *given, int num_rows, int64_t num_columns,
                          __m128 found[MOST]) {
    const uint16_t *lines[LINES], *rows[MOST];
    EACH(l, LINES) lines[l] = matrix + (l < num_lines ? l : num_lines - 1) * line_stride;
    EACH(r, num_rows) rows[r] = given[r];

    __m256 sums[MOST][LINES];
    EACH(r, num_rows)
        EACH(l, LINES) sums[r][l] = _mm256_setzero_ps();
    const uint16_t *next = matrix + AHEAD * line_stride;
    int64_t rest = num_columns % PAIR, end = num_columns - rest;
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
    EACH(r, num_rows) found[r] = totals(sums[r]);
}
#endif
