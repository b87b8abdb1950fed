/* Sums of a few rows by a few lines of a bfloat16 matrix: what dense products are made of.

   Tiles are converted to float32 in registers and summed there, as many sums as registers hold
   (after K. Goto, R. van de Geijn, Anatomy of high-performance matrix multiplication, 2008;
   nothing is packed, as operands of 16 bits are small and are read along the columns on both
   sides). Every sum is taken in one order, whatever other rows there are. CPUs that multiply bfloat16
   themselves have tiles of their own. */

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

/* The same on CPUs with AVX-512 BF16. Nothing is converted: the CPU multiplies pairs of bfloat16 and
   adds both products to a sum in float32. */

#define DOTS __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define INLINE_DOTS DOTS static inline __attribute__((always_inline))
#define MOST_DOTS 4 /* rows of a tile: with four lines sixteen sums, of thirty-two registers */
#define WHOLE 32    /* columns that a register holds */

/* WHOLE columns, of which the mask has those that there are. */
INLINE_DOTS void add_dots(__m512 sums[MOST_DOTS][LINES], int num_rows,
                          const uint16_t *const lines[LINES], const uint16_t *const *rows,
                          int64_t column, __mmask32 mask) {
    __m512bh row[MOST_DOTS];
    EACH(r, num_rows) row[r] = (__m512bh)_mm512_maskz_loadu_epi16(mask, rows[r] + column);
    EACH(l, LINES) {
        __m512bh line = (__m512bh)_mm512_maskz_loadu_epi16(mask, lines[l] + column);
        EACH(r, num_rows) sums[r][l] = _mm512_dpbf16_ps(sums[r][l], line, row[r]);
    }
}

/* As sums_of_lines. num_rows: at most MOST_DOTS */
INLINE_DOTS void dots_of_lines(const uint16_t *matrix, int64_t line_stride, int64_t num_lines,
                               const uint16_t *const *rows, int num_rows, int64_t num_columns,
                               __m128 found[MOST_DOTS]) {
    const uint16_t *lines[LINES], *next = matrix + AHEAD * line_stride;
    EACH(l, LINES) lines[l] = matrix + (l < num_lines ? l : num_lines - 1) * line_stride;
    __m512 sums[MOST_DOTS][LINES];
    EACH(r, num_rows)
        EACH(l, LINES) sums[r][l] = _mm512_setzero_ps();
    int64_t rest = num_columns % WHOLE, end = num_columns - rest;
    for (int64_t column = 0; column < end; column += WHOLE) {
        for (int i = 0; i < WHOLE * LINES; i += FETCH)
            if (num_rows < MOST_DOTS) /* Sums then wait for numbers, not numbers for sums. */
                _mm_prefetch((const char *)(next + LINES * column + i), _MM_HINT_T0);
            else
                _mm_prefetch((const char *)(next + LINES * column + i), _MM_HINT_T1);
        add_dots(sums, num_rows, lines, rows, column, ~0u);
    }
    if (rest) add_dots(sums, num_rows, lines, rows, end, (1u << rest) - 1);
    EACH(r, num_rows) {
        __m256 halves[LINES];
        EACH(l, LINES)
            halves[l] = _mm256_add_ps(_mm512_castps512_ps256(sums[r][l]),
                                      _mm512_extractf32x8_ps(sums[r][l], 1));
        found[r] = totals(halves);
    }
}
#endif
