/* Rounds matrices with feedback, for x86 CPUs with AVX2: what feedback.py does, to the bit.

   Every product and sum is rounded by itself and sums are taken in the order of columns, so the
   numbers depend neither on threads nor on how rows are cut into tiles. The numbers of TILE rows
   lie beside each other, and the losses of PANEL columns stay in registers while the later columns
   make up for them. */

#include <pthread.h>
#include <stdint.h>
#include <string.h>

/* Raised, here and in compiled_rounding.py, when the function is to be called otherwise. */
#define INTERFACE 1

int64_t expertpool_rounding_interface(void);
int64_t expertpool_rounding_interface(void) { return INTERFACE; }

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE AVX2 static inline __attribute__((always_inline))
#define LANES 8
#define TILE 16
#define PANEL 8
#define MOST_COLUMNS 256 /* in a block */
#define MOST_THREADS 64

/* All that a call is given: field by field as in compiled_rounding.py. */
typedef struct {
    const float *matrix; /* (O, I) */
    const float *roots;  /* (B, b, b), of each block the upper Cholesky factor of the inverse */
    const float *spreads; /* (B, b) */
    const float *shares; /* (num_shares,): steps to try, over the largest value of a group */
    uint8_t *codes;      /* (O, I) */
    uint16_t *scales;    /* (O, ceil(I / group)), bfloat16 */
    float *values;       /* (O, I) */
    int64_t num_rows, num_columns, block, group, num_shares;
    double half; /* of the largest code */
    int64_t num_threads;
} Call;

typedef struct {
    const Call *call;
    int64_t thread, num_threads;
} Part;

/* Numbers of a tile's rows, columns first; what is left to round becomes what it was rounded to. */
typedef struct {
    float left[MOST_COLUMNS][TILE] __attribute__((aligned(32)));
    float codes[MOST_COLUMNS][TILE] __attribute__((aligned(32)));
} Tile;

INLINE __m256 rounded_code(__m256 number, __m256 inverse, __m256 half, __m256 most) {
    __m256 code = _mm256_add_ps(_mm256_mul_ps(number, inverse), half);
    code = _mm256_round_ps(code, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_min_ps(_mm256_max_ps(code, _mm256_setzero_ps()), most);
}

/* To bfloat16 and back: to the nearest, ties to even. No number is infinite here. */
INLINE __m256 as_stored(__m256 number) {
    __m256i bits = _mm256_castps_si256(number);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000u)));
}

/* The step of LANES rows with the least error, of those tried. left: the group's columns, of these
   rows   spreads: (width,) */
INLINE __m256 best_step(const float (*left)[TILE], const float *spreads, int64_t width,
                        const Call *call) {
    const __m256 half = _mm256_set1_ps((float)call->half);
    const __m256 most = _mm256_add_ps(half, half);
    const __m256 tiny = _mm256_set1_ps(0x1p-126f), one = _mm256_set1_ps(1.0f);
    const __m256 positive = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 largest = tiny, best = one, step = one;
    for (int64_t c = 0; c < width; c++)
        largest = _mm256_max_ps(_mm256_and_ps(_mm256_load_ps(left[c]), positive), largest);
    for (int64_t s = 0; s < call->num_shares; s++) {
        __m256 share = _mm256_set1_ps(call->shares[s]);
        __m256 tried = _mm256_max_ps(as_stored(_mm256_mul_ps(largest, share)), tiny);
        __m256 inverse = _mm256_div_ps(one, tried), error = _mm256_setzero_ps();
        for (int64_t c = 0; c < width; c++) {
            __m256 number = _mm256_load_ps(left[c]);
            __m256 code = rounded_code(number, inverse, half, most);
            __m256 value = _mm256_mul_ps(_mm256_sub_ps(code, half), tried);
            __m256 lost = _mm256_sub_ps(value, number);
            __m256 cost = _mm256_mul_ps(_mm256_mul_ps(lost, lost), _mm256_set1_ps(spreads[c]));
            error = _mm256_add_ps(error, cost);
        }
        __m256 better = s ? _mm256_cmp_ps(error, best, _CMP_LT_OQ)
                          : _mm256_castsi256_ps(_mm256_set1_epi32(-1));
        best = _mm256_blendv_ps(best, error, better);
        step = _mm256_blendv_ps(step, tried, better);
    }
    return step;
}

/* Later columns make up for what `num` columns from `first` on lost. lost: (num, TILE) */
INLINE void make_up(Tile *tile, const float *roots, int64_t block, int64_t first, int64_t num,
                    int64_t from, int64_t end, const __m256 lost[PANEL][2]) {
    for (int64_t c = from; c < end; c++) {
        __m256 a = _mm256_load_ps(tile->left[c]), b = _mm256_load_ps(tile->left[c] + LANES);
        _Pragma("GCC unroll 8") for (int64_t k = 0; k < num; k++) {
            __m256 root = _mm256_broadcast_ss(roots + (first + k) * block + c);
            a = _mm256_sub_ps(a, _mm256_mul_ps(lost[k][0], root));
            b = _mm256_sub_ps(b, _mm256_mul_ps(lost[k][1], root));
        }
        _mm256_store_ps(tile->left[c], a);
        _mm256_store_ps(tile->left[c] + LANES, b);
    }
}

INLINE void round_panel(Tile *tile, const float *roots, const Call *call, int64_t first,
                        int64_t num, int64_t end, const __m256 steps[2], const __m256 inverses[2]) {
    const __m256 half = _mm256_set1_ps((float)call->half), most = _mm256_add_ps(half, half);
    const int64_t block = call->block;
    __m256 lost[PANEL][2];
    for (int64_t k = 0; k < num; k++) {
        int64_t c = first + k;
        const __m256 root = _mm256_broadcast_ss(roots + c * block + c);
        for (int h = 0; h < 2; h++) {
            __m256 number = _mm256_load_ps(tile->left[c] + h * LANES);
            __m256 code = rounded_code(number, inverses[h], half, most);
            __m256 value = _mm256_mul_ps(_mm256_sub_ps(code, half), steps[h]);
            lost[k][h] = _mm256_div_ps(_mm256_sub_ps(number, value), root);
            _mm256_store_ps(tile->codes[c] + h * LANES, code);
            _mm256_store_ps(tile->left[c] + h * LANES, value);
        }
        make_up(tile, roots, block, c, 1, c + 1, first + num, lost + k);
    }
    if (num == PANEL)
        make_up(tile, roots, block, first, PANEL, first + num, end, lost);
    else
        make_up(tile, roots, block, first, num, first + num, end, lost);
}

/* Round the columns of one block in `num` rows from `row` on. */
AVX2 static void round_tile(Tile *tile, const Call *call, int64_t number, int64_t row,
                            int64_t num) {
    const int64_t block = call->block, begin = number * block, all = call->num_columns;
    const int64_t width = all - begin < block ? all - begin : block;
    const int64_t num_groups = (all + call->group - 1) / call->group;
    const float *roots = call->roots + number * block * block;
    memset(tile->left, 0, sizeof tile->left);
    for (int64_t r = 0; r < num; r++)
        for (int64_t c = 0; c < width; c++)
            tile->left[c][r] = call->matrix[(row + r) * all + begin + c];
    for (int64_t start = 0; start < width; start += call->group) {
        int64_t end = start + call->group < width ? start + call->group : width;
        const float *spreads = call->spreads + begin + start;
        __m256 steps[2], inverses[2];
        for (int h = 0; h < 2; h++) {
            const float(*own)[TILE] = (const float(*)[TILE])(tile->left[start] + h * LANES);
            steps[h] = best_step(own, spreads, end - start, call);
            inverses[h] = _mm256_div_ps(_mm256_set1_ps(1.0f), steps[h]);
        }
        float found[TILE] __attribute__((aligned(32)));
        _mm256_store_ps(found, steps[0]);
        _mm256_store_ps(found + LANES, steps[1]);
        for (int64_t r = 0; r < num; r++) {
            uint32_t bits;
            memcpy(&bits, found + r, sizeof bits);
            call->scales[(row + r) * num_groups + (begin + start) / call->group] =
                (uint16_t)(bits >> 16);
        }
        for (int64_t first = start; first < end; first += PANEL)
            round_panel(tile, roots, call, first, end - first < PANEL ? end - first : PANEL, width,
                        steps, inverses);
    }
    for (int64_t r = 0; r < num; r++)
        for (int64_t c = 0; c < width; c++) {
            call->codes[(row + r) * all + begin + c] = (uint8_t)tile->codes[c][r];
            call->values[(row + r) * all + begin + c] = tile->left[c][r];
        }
}

/* Every num_threads-th tile, all of a block before the next: its roots stay in the cache. */
static void *round_part(void *given) {
    const Part *part = given;
    const Call *call = part->call;
    Tile tile;
    for (int64_t number = 0; number * call->block < call->num_columns; number++)
        for (int64_t row = part->thread * TILE; row < call->num_rows;
             row += part->num_threads * TILE) {
            int64_t num = call->num_rows - row < TILE ? call->num_rows - row : TILE;
            round_tile(&tile, call, number, row, num);
        }
    return NULL;
}

/* 0, or -1 where a block has more columns than there is room for, and nothing was done. */
int64_t expertpool_round(const Call *call);
int64_t expertpool_round(const Call *call) {
    if (call->block > MOST_COLUMNS) return -1;
    int64_t num_tiles = (call->num_rows + TILE - 1) / TILE, num = call->num_threads;
    if (num > num_tiles) num = num_tiles;
    if (num > MOST_THREADS) num = MOST_THREADS;
    pthread_t threads[MOST_THREADS];
    Part parts[MOST_THREADS];
    int is_there[MOST_THREADS];
    for (int64_t thread = num - 1; thread >= 0; thread--) {
        parts[thread] = (Part){call, thread, num};
        is_there[thread] =
            thread && !pthread_create(threads + thread, NULL, round_part, parts + thread);
        if (!is_there[thread]) round_part(parts + thread);
    }
    for (int64_t thread = 1; thread < num; thread++)
        if (is_there[thread]) pthread_join(threads[thread], NULL);
    return 0;
}
#endif
