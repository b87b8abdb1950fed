/* Rows of x as planes of codes want them: whole numbers, in streams. See planes.h. */

#pragma once

#include "planes.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <float.h>
#include <math.h>

#define SMALLEST 1e-30f /* a group whose largest number is smaller counts as zeros */
#define MOST_FINE 16319 /* in two digits of at most 127 and 64 */

/* x in one precision. Room for what is needed, else NULL.

   high, low: by the width's place among 1, 2, 4, 8; (rows, groups, GROUP)
   sizes: the scale of each group   sums: of each group, of x as it is used, scale included
   high_sums: the same of high digits alone; all (rows, groups) */
typedef struct {
    int8_t *high[4], *low[4];
    float *sizes, *sums, *high_sums;
} Streams;

static inline int place_of_width(int64_t width) {
    return width == 1 ? 0 : width == 2 ? 1 : width == 4 ? 2 : 3;
}

/* A group's digits, in streams for planes of a width. */
INLINE void scatter(int8_t *room, const int8_t digits[GROUP], int width) {
    const int per_byte = 8 / width, num_bytes = GROUP / per_byte;
    for (int stream = 0; stream < per_byte; stream++) {
        int place = width == 1 ? 32 * (stream % 4) + 16 * (stream / 4) : num_bytes * stream;
        for (int byte = 0; byte < num_bytes; byte++)
            room[place + byte] = digits[byte * per_byte + stream];
    }
}

AVX2 static void scatter_all(int8_t *const rooms[4], int64_t at, const int8_t digits[GROUP]) {
    if (rooms[0]) scatter(rooms[0] + at * GROUP, digits, 1);
    if (rooms[1]) scatter(rooms[1] + at * GROUP, digits, 2);
    if (rooms[2]) scatter(rooms[2] + at * GROUP, digits, 4);
    if (rooms[3]) memcpy(rooms[3] + at * GROUP, digits, GROUP);
}

/* values times factor, to the nearest.  -> their sum */
AVX2 static int64_t whole_numbers(const float values[GROUP], float factor, int16_t found[GROUP]) {
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i += 8) {
        __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(values + i), _mm256_set1_ps(factor));
        __m256i whole = _mm256_cvtps_epi32(scaled);
        __m128i low = _mm256_castsi256_si128(whole), high = _mm256_extracti128_si256(whole, 1);
        _mm_storeu_si128((__m128i *)(found + i), _mm_packs_epi32(low, high));
    }
    for (int i = 0; i < GROUP; i++) sum += found[i];
    return sum;
}

/* 8 bits. largest: of the group's sizes, not a number where one is not */
AVX2 static void fill_coarse(const Streams *streams, int64_t at, const float values[GROUP],
                             float largest) {
    int16_t whole[GROUP];
    int8_t digits[GROUP];
    int is_sound = largest >= SMALLEST && largest <= FLT_MAX;
    int64_t sum = whole_numbers(values, is_sound ? 127 / largest : 0, whole);
    for (int i = 0; i < GROUP; i++) digits[i] = is_sound ? (int8_t)whole[i] : 0;
    streams->sizes[at] = largest / 127;
    streams->sums[at] = largest / 127 * (float)(is_sound ? sum : 0);
    scatter_all(streams->high, at, digits);
}

/* 15 bits, with a scale that is a power of two: numbers in bfloat16 lose nothing but what lies
   below the last bit of those 64 times as large. */
AVX2 static void fill_fine(const Streams *streams, int64_t at, const float values[GROUP],
                           float largest) {
    int16_t whole[GROUP];
    int8_t high[GROUP], low[GROUP];
    int is_sound = largest >= SMALLEST && largest <= FLT_MAX, exponent = 0;
    if (is_sound && frexpf(largest, &exponent) * 16384 > MOST_FINE) exponent++;
    float size = ldexpf(1, exponent - 14);
    int64_t sum = whole_numbers(values, is_sound ? 1 / size : 0, whole);
    int32_t high_sum = 0;
    for (int i = 0; i < GROUP; i++) {
        int16_t digits = is_sound ? whole[i] : 0, upper = (int16_t)((digits + DIGIT / 2) >> 7);
        high[i] = (int8_t)upper;
        low[i] = (int8_t)(digits - upper * DIGIT);
        high_sum += upper;
    }
    if (!is_sound) size = largest * 0; /* not a number, if there was none */
    streams->sizes[at] = size;
    streams->sums[at] = size * (float)(is_sound ? sum : 0);
    streams->high_sums[at] = size * (float)high_sum * DIGIT;
    scatter_all(streams->high, at, high);
    scatter_all(streams->low, at, low);
}

/* x: a row of num_columns numbers in bfloat16.   coarse, fine: sizes are NULL where not needed */
AVX2 static void fill_streams(const Streams *coarse, const Streams *fine, const uint16_t *x,
                              int64_t row, int64_t num_columns) {
    int64_t num_groups = (num_columns + GROUP - 1) / GROUP;
    for (int64_t group = 0; group < num_groups; group++) {
        float values[GROUP];
        uint16_t numbers[GROUP] = {0}, most = 0;
        int64_t start = group * GROUP, num = num_columns - start;
        memcpy(numbers, x + start, (size_t)(num < GROUP ? num : GROUP) * sizeof *x);
        for (int i = 0; i < GROUP; i++) {
            uint16_t size = numbers[i] & 0x7fff;
            most = size > most ? size : most;
            values[i] = widened(numbers[i]);
        }
        int64_t at = row * num_groups + group;
        if (coarse->sizes) fill_coarse(coarse, at, values, widened(most));
        if (fine->sizes) fill_fine(fine, at, values, widened(most));
    }
}
#endif
