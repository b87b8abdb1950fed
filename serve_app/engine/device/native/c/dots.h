/* Sums of a few rows by a few lines of a bfloat16 matrix, on x86 CPUs with AVX-512 BF16.

   As in lines.h, but nothing is converted: the CPU multiplies pairs of bfloat16 and adds both
   products to a sum in float32. Every sum is taken in one order, whatever other rows there are. */

#pragma once

#include "lines.h"

#if defined(__x86_64__) && defined(__GNUC__)

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

/* As sums_of_lines in lines.h. num_rows: at most MOST_DOTS */
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
