/* Products of a few rows by lines of packed codes, as the codes lie. parts.c calls them.

   A byte of a plane of w bits holds 8 / w neighbouring columns. So the columns of a row of x are
   laid out in 8 / w streams, column mod 8 / w, one after another within each group of GROUP: the
   codes that one shift and one mask take out of a register then meet neighbours of one stream.

   x is in whole numbers, with a scale for each group: of 8 bits, or of 15 as two digits, a high
   one that counts DIGIT and a low one. So products are exact, and a group's numbers of all planes
   are added up before they are scaled. Codes are from 0 on: a level is a code less half of the
   largest. That half is taken off at the end, times the sum of the group's x; the loops know codes
   alone. Each sum is taken in one order, whatever other rows there are. */

#pragma once

#include "../bfloat16.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define GROUP 128 /* columns that share a scale */
#define ROWS 8    /* most rows of a tile */
#define DIGIT 128 /* what the high digit counts, in low ones */
#define MOST_PLANES 4
#define CHUNK 32 /* numbers of x that are read at once */

#define EACH_ROW(index, num) _Pragma("GCC unroll 8") for (int index = 0; index < (num); index++)
#define UNROLLED _Pragma("GCC unroll 8")

/* Numbers `at` to `at` + CHUNK of a group of row r, as they stand in a tile: see TilePlane. */
#define CHUNK_OF(x, at, r, num_rows) ((x) + (at) * (num_rows) + CHUNK * (r))

/* One plane of the lines of a tile. */
typedef struct {
    const uint8_t *codes; /* of the first line */
    int64_t line_bytes;
    int64_t width; /* in bits: 1, 2, 4 or 8 */
    int64_t shift; /* its codes count 1 << shift */
    /* x in streams, (groups, GROUP / CHUNK, rows, CHUNK): of rows a whole number of lines apart, a
       core's cache would give one at a time. */
    const int8_t *high;
    const int8_t *low;  /* the low digits; NULL where the high ones are all */
} TilePlane;

/* Lines of a part, and the rows that meet them. */
typedef struct {
    TilePlane planes[MOST_PLANES];
    int64_t num_planes, num_groups, num_lines;
    const uint16_t *scales; /* of the first line's groups, in bfloat16 */
    /* Of each group and row: the scale of x, and what half levels are taken off. (groups, ROWS),
       or (groups,) for tiles that take one row; zeros where there is none, up to whole ROWS. */
    const float *sizes, *offsets;
    float *out[ROWS]; /* of each row: its numbers for the lines, which are added to */
} Tile;

/* Four products of neighbours are added to each lane. codes: unsigned   x: signed */
INLINE __m256i dot_vnni(__m256i sum, __m256i codes, const int8_t *x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "m"(*(const __m256i_u *)x));
    return sum;
}

/* As dot_vnni, two products in lanes of 16 bits: eight such of codes below 16 fit. */
INLINE __m256i dot_avx2(__m256i sum, __m256i codes, const int8_t *x) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, _mm256_loadu_si256((const void *)x)));
}

INLINE __m256i dot(__m256i sum, __m256i codes, const int8_t *x, int vnni) {
    return vnni ? dot_vnni(sum, codes, x) : dot_avx2(sum, codes, x);
}

/* In lanes of 32 bits, times 1 << shift. */
INLINE __m256i shifted(__m256i sum, int64_t shift, int vnni) {
    if (vnni) return _mm256_sll_epi32(sum, _mm_cvtsi64_si128(shift));
    return _mm256_madd_epi16(sum, _mm256_set1_epi16((int16_t)(1 << shift)));
}

/* The codes of a stream. */
INLINE __m256i codes_of(__m256i bytes, int shift, int width) {
    __m256i codes = shift ? _mm256_srli_epi32(bytes, shift) : bytes;
    return _mm256_and_si256(codes, _mm256_set1_epi8((char)((1 << width) - 1)));
}

/* All codes of a group of one plane by one digit of x.

   A plane of one bit has 16 bytes a group: streams 0 to 3 are taken out of the lower half of the
   register, 4 to 7 out of the upper one, and so x is laid out in pairs of streams. */
INLINE void add_digit(__m256i found[ROWS], const uint8_t *codes, const int8_t *x, int width,
                      int shift, int vnni, int num_rows) {
    __m256i sums[ROWS];
    EACH_ROW(r, num_rows) sums[r] = _mm256_setzero_si256();
    if (width == 4) {
        UNROLLED for (int byte = 0; byte < 64; byte += 32) {
            __m256i bytes = _mm256_loadu_si256((const __m256i *)(codes + byte));
            UNROLLED for (int stream = 0; stream < 2; stream++) {
                __m256i code = codes_of(bytes, 4 * stream, 4);
                EACH_ROW(r, num_rows) 
                    sums[r] = dot(sums[r], code, CHUNK_OF(x, 64 * stream + byte, r, num_rows), vnni);
            }
        }
    } else {
        __m256i bytes;
        if (width == 2) {
            bytes = _mm256_loadu_si256((const __m256i *)codes);
        } else {
            __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)codes));
            bytes = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
        }
        UNROLLED for (int stream = 0; stream < 4; stream++) {
            __m256i code = codes_of(bytes, width * stream, width);
            EACH_ROW(r, num_rows) 
                sums[r] = dot(sums[r], code, CHUNK_OF(x, 32 * stream, r, num_rows), vnni);
        }
    }
    EACH_ROW(r, num_rows) found[r] = _mm256_add_epi32(found[r], shifted(sums[r], shift, vnni));
}

/* A plane of bytes, as their halves: those fit lanes of 16 bits. */
INLINE void add_bytes(__m256i found[ROWS], const uint8_t *codes, const int8_t *x, int shift,
                      int vnni, int num_rows) {
    UNROLLED for (int half = 0; half < 2; half++) {
        __m256i sums[ROWS];
        EACH_ROW(r, num_rows) sums[r] = _mm256_setzero_si256();
        UNROLLED for (int byte = 0; byte < GROUP; byte += 32) {
            __m256i bytes = _mm256_loadu_si256((const __m256i *)(codes + byte));
            __m256i code = codes_of(bytes, 4 * half, 4);
            EACH_ROW(r, num_rows) sums[r] = dot(sums[r], code, CHUNK_OF(x, byte, r, num_rows), vnni);
        }
        EACH_ROW(r, num_rows)
            found[r] = _mm256_add_epi32(found[r], shifted(sums[r], shift + 4 * half, vnni));
    }
}

INLINE void add_digits(__m256i found[ROWS], const uint8_t *codes, const int8_t *x, int64_t width,
                       int shift, int vnni, int num_rows) {
    switch (width) {
    case 1: add_digit(found, codes, x, 1, shift, vnni, num_rows); break;
    case 2: add_digit(found, codes, x, 2, shift, vnni, num_rows); break;
    case 4: add_digit(found, codes, x, 4, shift, vnni, num_rows); break;
    default: add_bytes(found, codes, x, shift, vnni, num_rows);
    }
}

/* A group's codes, or what the line still has of it, with zeros behind: there may be nothing that
   can be read. */
INLINE const uint8_t *whole_codes(const uint8_t *codes, int64_t left, int64_t group_bytes,
                                  uint8_t room[GROUP]) {
    if (__builtin_expect(left >= group_bytes, 1)) return codes;
    memset(room, 0, GROUP);
    return memcpy(room, codes, (size_t)left);
}

/* A group of all planes. */
INLINE void add_group(__m256i found[ROWS], const Tile *tile, int64_t line, int64_t group,
                      int vnni, int num_rows) {
    for (int64_t p = 0; p < tile->num_planes; p++) {
        const TilePlane *plane = tile->planes + p;
        const int64_t group_bytes = GROUP / 8 * plane->width, start = group * group_bytes;
        const int64_t at = group * num_rows * GROUP;
        uint8_t room[GROUP];
        const uint8_t *codes = whole_codes(plane->codes + line * plane->line_bytes + start,
                                           plane->line_bytes - start, group_bytes, room);
        const int shift = (int)plane->shift;
        add_digits(found, codes, plane->high + at, plane->width, plane->low ? shift + 7 : shift,
                   vnni, num_rows);
        if (plane->low)
            add_digits(found, codes, plane->low + at, plane->width, shift, vnni, num_rows);
    }
}
#endif
