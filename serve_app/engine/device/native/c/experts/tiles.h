/* Tiles: some lines of a part by a few rows of x. planes.h has what they are made of. */

#pragma once

#include "planes.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define VNNI __attribute__((target("avx2,fma,avx512vl,avx512vnni")))
#define LANES 8
#define CODES_AHEAD 2048 /* bytes of codes that are fetched ahead */
#define FEW_ROWS 4       /* that leave no time to fetch ahead: they wait for memory anyway */

/* What a tile consists of: any planes, or those that occur most: one that meets one digit, one of
   four bits that meets both, or two of four bits of which the upper one meets both. */
enum { ANY, ONE_BIT, TWO_BITS, FOUR_BITS, FINE_FOUR_BITS, SPLIT_BYTE, NUM_KINDS };

/* What a tile of a known kind reads, with nothing that could change while it is read. */
typedef struct {
    const uint8_t *codes;
    int64_t line_bytes, to_lower; /* from the upper plane of a split byte to the lower one */
    const int8_t *high, *low;
} Known;

INLINE int width_of(int kind) { return kind == ONE_BIT ? 1 : kind == TWO_BITS ? 2 : 4; }

INLINE Known known_of(const Tile *tile) {
    const TilePlane *plane = tile->planes;
    const int64_t to_lower = tile->num_planes > 1 ? plane[1].codes - plane->codes : 0;
    return (Known){plane->codes, plane->line_bytes, to_lower, plane->high, plane->low};
}

/* Split bytes by 15 bits, where lanes of 32 bits hold products of whole bytes. */
INLINE void add_whole_bytes(__m256i found[ROWS], const uint8_t *upper, const uint8_t *lower,
                            const int8_t *x_high, const int8_t *x_low, int num_rows) {
    const __m256i half = _mm256_set1_epi8(15);
    __m256i bytes[ROWS], halves[ROWS];
    EACH_ROW(r, num_rows) bytes[r] = halves[r] = _mm256_setzero_si256();
    UNROLLED for (int byte = 0; byte < 64; byte += 32) {
        __m256i above = _mm256_loadu_si256((const __m256i *)(upper + byte));
        __m256i below = _mm256_loadu_si256((const __m256i *)(lower + byte));
        UNROLLED for (int stream = 0; stream < 2; stream++) {
            __m256i high = codes_of(above, 4 * stream, 4), low = codes_of(below, 4 * stream, 4);
            __m256i top = stream ? _mm256_andnot_si256(half, above) : _mm256_slli_epi32(high, 4);
            __m256i whole = _mm256_or_si256(top, low);
            EACH_ROW(r, num_rows) {
                const int at = 64 * stream + byte;
                bytes[r] = dot(bytes[r], whole, CHUNK_OF(x_high, at, r, num_rows), 1);
                halves[r] = dot(halves[r], high, CHUNK_OF(x_low, at, r, num_rows), 1);
            }
        }
    }
    EACH_ROW(r, num_rows)
        found[r] = _mm256_add_epi32(_mm256_slli_epi32(bytes[r], 7), _mm256_slli_epi32(halves[r], 4));
}

/* A group of a line of a known kind.   codes: of the line */
INLINE void known_group(__m256i found[ROWS], const Known *known, const uint8_t *codes, int kind,
                        int64_t group, int vnni, int num_rows) {
    const int width = width_of(kind), group_bytes = GROUP / 8 * width;
    const int shift = kind == SPLIT_BYTE ? 4 : 0;
    const int is_fine = kind == SPLIT_BYTE || kind == FINE_FOUR_BITS;
    const int64_t start = group * group_bytes, left = known->line_bytes - start;
    const int8_t *high = known->high + group * num_rows * GROUP;
    const int8_t *low = known->low + group * num_rows * GROUP;
    uint8_t room[GROUP], lower_room[GROUP];
    const uint8_t *lower = codes + start + known->to_lower;
    if (num_rows > FEW_ROWS) {
        _mm_prefetch((const char *)codes + start + CODES_AHEAD, _MM_HINT_T0);
        if (kind == SPLIT_BYTE) _mm_prefetch((const char *)lower + CODES_AHEAD, _MM_HINT_T0);
    }
    codes = whole_codes(codes + start, left, group_bytes, room);
    if (kind == SPLIT_BYTE) lower = whole_codes(lower, left, group_bytes, lower_room);
    EACH_ROW(r, num_rows) found[r] = _mm256_setzero_si256();
    if (kind == SPLIT_BYTE && vnni) {
        add_whole_bytes(found, codes, lower, high, low, num_rows);
        return;
    }
    add_digit(found, codes, high, width, is_fine ? shift + 7 : 0, vnni, num_rows);
    if (is_fine) add_digit(found, codes, low, width, shift, vnni, num_rows);
    if (kind == SPLIT_BYTE) add_digit(found, lower, high, width, 7, vnni, num_rows);
}

/* Adds the products of a row's group, times their factor. */
INLINE void add_scaled(__m256 *sum, __m256i products, const float *factor, int vnni) {
    __m256 wide = _mm256_cvtepi32_ps(products);
    if (vnni)
        __asm__("vfmadd231ps %2%{1to8%}, %1, %0" : "+v"(*sum) : "v"(wide), "m"(*factor));
    else
        add_product(sum, wide, _mm256_broadcast_ss(factor));
}

/* Of eight groups; zeros where `num` are fewer. Behind the end may be nothing that can be read. */
INLINE __m256 widened_scales(const uint16_t *scales, int64_t num, const uint16_t *end) {
    uint16_t room[LANES] = {0};
    if (end - scales < LANES)
        scales = memcpy(room, scales, (size_t)(end - scales) * sizeof *scales);
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)scales));
    const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    wide = _mm256_and_si256(wide, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)num), places));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* One row by four lines at a time, so that there is enough to do while codes come. */
INLINE void tile_of_one_row(const Tile *tile, int kind, int vnni) {
    const Known known = known_of(tile);
    const int64_t num_groups = tile->num_groups, num_lines = tile->num_lines;
    const uint16_t *const end = tile->scales + num_lines * num_groups;
    const float *const all_sizes = tile->sizes, *const all_offsets = tile->offsets;
    for (int64_t line = 0; line < num_lines; line += 4) {
        const uint8_t *codes[4];
        const uint16_t *scales[4];
        __m256 sums[4];
        EACH_ROW(l, 4) {
            const int64_t own = line + l < num_lines ? line + l : num_lines - 1;
            codes[l] = known.codes + own * known.line_bytes;
            scales[l] = tile->scales + own * num_groups;
            sums[l] = _mm256_setzero_ps();
        }
        for (int64_t first = 0; first < num_groups; first += LANES) {
            const int64_t num = num_groups - first < LANES ? num_groups - first : LANES;
            const __m256 sizes = _mm256_loadu_ps(all_sizes + first);
            const __m256 offsets = _mm256_loadu_ps(all_offsets + first);
            __m256 factors[4];
            EACH_ROW(l, 4) {
                __m256 wide = widened_scales(scales[l] + first, num, end);
                factors[l] = _mm256_mul_ps(wide, sizes);
                sums[l] = _mm256_fnmadd_ps(wide, offsets, sums[l]);
            }
            /* In the order in which they lie: what fetches ahead by itself follows one line. */
            EACH_ROW(l, 4)
                for (int64_t group = 0; group < num; group++) {
                    __m256i whole[ROWS];
                    known_group(whole, &known, codes[l], kind, first + group, vnni, 1);
                    add_scaled(&sums[l], whole[0], (const float *)(factors + l) + group, vnni);
                }
        }
        float found[4];
        _mm_storeu_ps(found, totals(sums));
        for (int64_t l = 0; l < 4 && line + l < num_lines; l++) tile->out[0][line + l] += found[l];
    }
}

INLINE __m256 widened_scale(const uint16_t *scale) {
    return _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)((uint32_t)*scale << 16)));
}

INLINE void tile_of_rows(const Tile *tile, int kind, int vnni, int num_rows) {
    const Known known = known_of(tile);
    const int64_t num_groups = tile->num_groups, num_lines = tile->num_lines;
    const uint16_t *scales = tile->scales;
    const float *const sizes = tile->sizes, *const offsets = tile->offsets;
    const uint8_t *codes = known.codes;
    for (int64_t line = 0; line < num_lines; line++) {
        __m256 sums[ROWS], offset = _mm256_setzero_ps();
        EACH_ROW(r, ROWS) sums[r] = _mm256_setzero_ps();
        for (int64_t group = 0; group < num_groups; group++) {
            __m256i whole[ROWS];
            if (kind == ANY) {
                EACH_ROW(r, num_rows) whole[r] = _mm256_setzero_si256();
                add_group(whole, tile, line, group, vnni, num_rows);
            } else {
                known_group(whole, &known, codes, kind, group, vnni, num_rows);
            }
            __m256 scale = widened_scale(scales + group);
            EACH_ROW(r, num_rows) {
                __m256 size = _mm256_broadcast_ss(sizes + group * ROWS + r);
                add_product(&sums[r], _mm256_cvtepi32_ps(whole[r]), _mm256_mul_ps(scale, size));
            }
            offset = _mm256_fmadd_ps(scale, _mm256_loadu_ps(offsets + group * ROWS), offset);
        }
        float found[ROWS];
        __m128 upper = num_rows > 4 ? totals(sums + 4) : _mm_setzero_ps();
        _mm256_storeu_ps(found, _mm256_sub_ps(_mm256_set_m128(upper, totals(sums)), offset));
        EACH_ROW(r, num_rows) tile->out[r][line] += found[r];
        scales += num_groups;
        codes += known.line_bytes;
    }
}

/* Whether a tile takes its row by several lines; then groups stand side by side. */
INLINE int takes_one(int kind, int64_t num_rows) { return num_rows == 1 && kind != ANY; }

typedef void (*TileProducts)(const Tile *tile);

#define TILE(name, target, kind, vnni, num_rows)                                                   \
    target static void name##_##num_rows(const Tile *tile) {                                       \
        if (takes_one(kind, num_rows))                                                             \
            tile_of_one_row(tile, kind, vnni);                                                     \
        else                                                                                       \
            tile_of_rows(tile, kind, vnni, num_rows);                                              \
    }
#define FOUR_TILES(name, target, kind, vnni)                                                       \
    TILE(name, target, kind, vnni, 1)                                                              \
    TILE(name, target, kind, vnni, 2)                                                              \
    TILE(name, target, kind, vnni, 3)                                                              \
    TILE(name, target, kind, vnni, 4)
#define EIGHT_TILES(name, target, kind, vnni)                                                      \
    FOUR_TILES(name, target, kind, vnni)                                                           \
    TILE(name, target, kind, vnni, 5)                                                              \
    TILE(name, target, kind, vnni, 6)                                                              \
    TILE(name, target, kind, vnni, 7)                                                              \
    TILE(name, target, kind, vnni, 8)
FOUR_TILES(avx2_any, AVX2, ANY, 0)
FOUR_TILES(avx2_bit, AVX2, ONE_BIT, 0)
FOUR_TILES(avx2_two, AVX2, TWO_BITS, 0)
FOUR_TILES(avx2_four, AVX2, FOUR_BITS, 0)
FOUR_TILES(avx2_fine, AVX2, FINE_FOUR_BITS, 0)
FOUR_TILES(avx2_byte, AVX2, SPLIT_BYTE, 0)
FOUR_TILES(vnni_any, VNNI, ANY, 1)
EIGHT_TILES(vnni_bit, VNNI, ONE_BIT, 1)
EIGHT_TILES(vnni_two, VNNI, TWO_BITS, 1)
EIGHT_TILES(vnni_four, VNNI, FOUR_BITS, 1)
EIGHT_TILES(vnni_fine, VNNI, FINE_FOUR_BITS, 1)
EIGHT_TILES(vnni_byte, VNNI, SPLIT_BYTE, 1)

#define FOUR_OF(name) {name##_1, name##_2, name##_3, name##_4}
#define EIGHT_OF(name)                                                                             \
    {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8}

/* By whether there is VNNI, by kind, and by rows less one. */
static const TileProducts tile_products_of[2][NUM_KINDS][ROWS] = {
    {FOUR_OF(avx2_any), FOUR_OF(avx2_bit), FOUR_OF(avx2_two), FOUR_OF(avx2_four),
     FOUR_OF(avx2_fine), FOUR_OF(avx2_byte)},
    {FOUR_OF(vnni_any), EIGHT_OF(vnni_bit), EIGHT_OF(vnni_two), EIGHT_OF(vnni_four),
     EIGHT_OF(vnni_fine), EIGHT_OF(vnni_byte)}};

/* As many as registers hold the sums of. */
static inline int64_t most_rows(int kind, int64_t has_vnni) {
    return has_vnni && kind != ANY ? ROWS : 4;
}
#endif
