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

#include "bfloat16.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define GROUP 128 /* columns that share a scale */
#define ROWS 4    /* rows of a tile */
#define DIGIT 128 /* what the high digit counts, in low ones */
#define MOST_PLANES 4

#define EACH_ROW(index, num) _Pragma("GCC unroll 4") for (int index = 0; index < (num); index++)
#define UNROLLED _Pragma("GCC unroll 8")

/* One plane of the lines of a tile. */
typedef struct {
    const uint8_t *codes;     /* of the first line */
    int64_t line_bytes;
    int64_t width;            /* in bits: 1, 2, 4 or 8 */
    int64_t shift;            /* its codes count 1 << shift */
    const int8_t *high[ROWS]; /* rows of x in streams, GROUP for each group */
    const int8_t *low[ROWS];  /* the low digits; NULL where the high ones are all */
} TilePlane;

/* Lines of a part, and the rows that meet them. */
typedef struct {
    TilePlane planes[MOST_PLANES];
    int64_t num_planes, num_groups, num_lines;
    const uint16_t *scales;   /* of the first line's groups, in bfloat16 */
    const float *sizes[ROWS]; /* the scale of each group of x */
    const __m128 *offsets;    /* of each group: what half levels are taken off, by row */
    float *out[ROWS];         /* of each row: its numbers for the lines, which are added to */
} Tile;

/* Four products of neighbours are added to each lane. codes: unsigned   x: signed */
INLINE __m256i dot_vnni(__m256i sum, __m256i codes, const int8_t *x) {
    __asm__("vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(codes), "m"(*(const __m256i_u *)x));
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
INLINE void add_digit(__m256i found[ROWS], const uint8_t *codes, const int8_t *const x[ROWS],
                      int width, int shift, int vnni, int num_rows) {
    __m256i sums[ROWS];
    EACH_ROW(r, num_rows) sums[r] = _mm256_setzero_si256();
    if (width == 4) {
        UNROLLED for (int byte = 0; byte < 64; byte += 32) {
            __m256i bytes = _mm256_loadu_si256((const __m256i *)(codes + byte));
            UNROLLED for (int stream = 0; stream < 2; stream++) {
                __m256i code = codes_of(bytes, 4 * stream, 4);
                EACH_ROW(r, num_rows) sums[r] = dot(sums[r], code, x[r] + 64 * stream + byte, vnni);
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
            EACH_ROW(r, num_rows) sums[r] = dot(sums[r], code, x[r] + 32 * stream, vnni);
        }
    }
    EACH_ROW(r, num_rows) found[r] = _mm256_add_epi32(found[r], shifted(sums[r], shift, vnni));
}

/* A plane of bytes, as their halves: those fit lanes of 16 bits. */
INLINE void add_bytes(__m256i found[ROWS], const uint8_t *codes, const int8_t *const x[ROWS],
                      int shift, int vnni, int num_rows) {
    UNROLLED for (int half = 0; half < 2; half++) {
        __m256i sums[ROWS];
        EACH_ROW(r, num_rows) sums[r] = _mm256_setzero_si256();
        UNROLLED for (int byte = 0; byte < GROUP; byte += 32) {
            __m256i bytes = _mm256_loadu_si256((const __m256i *)(codes + byte));
            __m256i code = codes_of(bytes, 4 * half, 4);
            EACH_ROW(r, num_rows) sums[r] = dot(sums[r], code, x[r] + byte, vnni);
        }
        EACH_ROW(r, num_rows)
            found[r] = _mm256_add_epi32(found[r], shifted(sums[r], shift + 4 * half, vnni));
    }
}

INLINE void add_digits(__m256i found[ROWS], const uint8_t *codes, const int8_t *const x[ROWS],
                       int64_t width, int shift, int vnni, int num_rows) {
    switch (width) {
    case 1: add_digit(found, codes, x, 1, shift, vnni, num_rows); break;
    case 2: add_digit(found, codes, x, 2, shift, vnni, num_rows); break;
    case 4: add_digit(found, codes, x, 4, shift, vnni, num_rows); break;
    default: add_bytes(found, codes, x, shift, vnni, num_rows);
    }
}

/* A group's codes of a line. They are copied where they are fewer than a group's: behind the last
   ones may be nothing that can be read. */
INLINE const uint8_t *group_codes(const TilePlane *plane, int64_t width, int64_t line,
                                  int64_t group, uint8_t room[GROUP]) {
    const int64_t group_bytes = GROUP / 8 * width, start = group * group_bytes;
    const uint8_t *codes = plane->codes + line * plane->line_bytes + start;
    if (__builtin_expect(plane->line_bytes - start >= group_bytes, 1)) return codes;
    memset(room, 0, GROUP);
    return memcpy(room, codes, (size_t)(plane->line_bytes - start));
}

/* A group of all planes. */
INLINE void add_group(__m256i found[ROWS], const Tile *tile, int64_t line, int64_t group,
                      int vnni, int num_rows) {
    for (int64_t p = 0; p < tile->num_planes; p++) {
        const TilePlane *plane = tile->planes + p;
        const int8_t *x[ROWS];
        uint8_t room[GROUP];
        const uint8_t *codes = group_codes(plane, plane->width, line, group, room);
        EACH_ROW(r, num_rows) x[r] = plane->high[r] + GROUP * group;
        if (!plane->low[0]) {
            add_digits(found, codes, x, plane->width, (int)plane->shift, vnni, num_rows);
            continue;
        }
        add_digits(found, codes, x, plane->width, (int)plane->shift + 7, vnni, num_rows);
        EACH_ROW(r, num_rows) x[r] = plane->low[r] + GROUP * group;
        add_digits(found, codes, x, plane->width, (int)plane->shift, vnni, num_rows);
    }
}

INLINE __m256 widened_scale(const uint16_t *scale) {
    return _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)((uint32_t)*scale << 16)));
}

/* What a tile consists of: any planes, or one of those that occur most. */
enum { ANY, ONE_BIT, TWO_BITS, FOUR_BITS, SPLIT_BYTE };

/* A group of the only plane, which meets one digit, or of two of four bits of which the upper one
   meets both. */
INLINE void add_known_group(__m256i found[ROWS], const TilePlane *planes, int kind, int64_t line,
                            int64_t group, int vnni, int num_rows) {
    const int width = kind == ONE_BIT ? 1 : kind == TWO_BITS ? 2 : 4;
    const int8_t *x[ROWS];
    uint8_t room[GROUP];
    const uint8_t *codes = group_codes(planes, width, line, group, room);
    EACH_ROW(r, num_rows) x[r] = planes[0].high[r] + GROUP * group;
    add_digit(found, codes, x, width, kind == SPLIT_BYTE ? 11 : 0, vnni, num_rows);
    if (kind != SPLIT_BYTE) return;
    EACH_ROW(r, num_rows) x[r] = planes[0].low[r] + GROUP * group;
    add_digit(found, codes, x, width, 4, vnni, num_rows);
    codes = group_codes(planes + 1, width, line, group, room);
    EACH_ROW(r, num_rows) x[r] = planes[1].high[r] + GROUP * group;
    add_digit(found, codes, x, width, 7, vnni, num_rows);
}

INLINE void tile_products(const Tile *tile, int kind, int vnni, int num_rows) {
    const uint16_t *scales = tile->scales;
    const TilePlane known[2] = {tile->planes[0], tile->planes[1]};
    const float *sizes[ROWS];
    EACH_ROW(r, num_rows) sizes[r] = tile->sizes[r];
    for (int64_t line = 0; line < tile->num_lines; line++) {
        __m256 sums[ROWS];
        __m128 offset = _mm_setzero_ps();
        EACH_ROW(r, ROWS) sums[r] = _mm256_setzero_ps();
        for (int64_t group = 0; group < tile->num_groups; group++) {
            __m256i whole[ROWS];
            EACH_ROW(r, num_rows) whole[r] = _mm256_setzero_si256();
            if (kind == ANY)
                add_group(whole, tile, line, group, vnni, num_rows);
            else
                add_known_group(whole, known, kind, line, group, vnni, num_rows);
            __m256 scale = widened_scale(scales + group);
            EACH_ROW(r, num_rows) {
                __m256 both = _mm256_mul_ps(scale, _mm256_broadcast_ss(sizes[r] + group));
                add_product(&sums[r], _mm256_cvtepi32_ps(whole[r]), both);
            }
            offset = _mm_fmadd_ps(_mm256_castps256_ps128(scale), tile->offsets[group], offset);
        }
        float found[ROWS];
        _mm_storeu_ps(found, _mm_sub_ps(totals(sums), offset));
        EACH_ROW(r, num_rows) tile->out[r][line] += found[r];
        scales += tile->num_groups;
    }
}

typedef void (*TileProducts)(const Tile *tile);

#define TILE(name, kind, vnni, num_rows)                                                           \
    AVX2 static void name(const Tile *tile) { tile_products(tile, kind, vnni, num_rows); }
#define TILES(name, kind, vnni)                                                                    \
    TILE(name##_1, kind, vnni, 1)                                                                  \
    TILE(name##_2, kind, vnni, 2)                                                                  \
    TILE(name##_3, kind, vnni, 3)                                                                  \
    TILE(name##_4, kind, vnni, 4)
TILES(avx2_any, ANY, 0)
TILES(avx2_bit, ONE_BIT, 0)
TILES(avx2_two, TWO_BITS, 0)
TILES(avx2_four, FOUR_BITS, 0)
TILES(avx2_byte, SPLIT_BYTE, 0)
TILES(vnni_any, ANY, 1)
TILES(vnni_bit, ONE_BIT, 1)
TILES(vnni_two, TWO_BITS, 1)
TILES(vnni_four, FOUR_BITS, 1)
TILES(vnni_byte, SPLIT_BYTE, 1)

#define ROWS_OF(name) {name##_1, name##_2, name##_3, name##_4}
#define KINDS_OF(name)                                                                             \
    {ROWS_OF(name##_any), ROWS_OF(name##_bit), ROWS_OF(name##_two), ROWS_OF(name##_four),          \
     ROWS_OF(name##_byte)}

/* By whether there is VNNI, by kind, and by rows less one. */
static const TileProducts tile_products_of[2][5][ROWS] = {KINDS_OF(avx2), KINDS_OF(vnni)};

static inline int kind_of_tile(const Tile *tile) {
    const TilePlane *upper = tile->planes, *lower = upper + 1;
    if (tile->num_planes == 2 && upper->width == 4 && upper->shift == 4 && upper->low[0] &&
        lower->width == 4 && lower->shift == 7 && !lower->low[0])
        return SPLIT_BYTE;
    if (tile->num_planes > 1 || upper->low[0] || upper->shift || upper->width == 8) return ANY;
    return upper->width == 1 ? ONE_BIT : upper->width == 2 ? TWO_BITS : FOUR_BITS;
}
#endif
