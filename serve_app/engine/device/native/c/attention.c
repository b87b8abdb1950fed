/* Attention of a step's tokens over the paged store, on x86 CPUs with AVX2. attention.py calls it.

   Keys and values are read where they lie, through tables of blocks (Kwon et al. 2023), some at a
   time: a query keeps its greatest score so far, the sum of exponentials and the sum of values
   weighed by them, and lowers both sums when a greater score comes (online softmax: Milakov and
   Gimelshein 2018). All of that is float32; what comes out is rounded once.

   A row is one head's query of one token. The rows of a sequence that share a head of keys are cut
   into tiles, which are the pieces of work for threads. Many rows lie side by side in the lanes of
   a register and meet one number of a key at a time; with few rows the lanes are numbers of a head.
   Numbers of a head stand in scratch as they are widened: of each PAIR of bfloat16 first those of
   even place. What is left of a head behind its last whole PAIR is taken one by one.

   How a row is computed depends on its sequence's part of the step alone. */

#include "attention/few.h"
#include "attention/many.h"
#include "crew.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define LEAST (1 << 18)     /* products of numbers that are worth a helper */

/* A tile for each of some heads of keys, one after the other. */
INLINE void attend(const Tile *tiles, int64_t num_heads, float *scratch, const int is_bfloat16) {
    if (tiles->num_rows == 1)
        attend_few(tiles, num_heads, scratch, 1, is_bfloat16);
    else if (tiles->num_rows == 2)
        attend_few(tiles, num_heads, scratch, 2, is_bfloat16);
    else if (tiles->num_rows <= FEW)
        attend_few(tiles, num_heads, scratch, FEW, is_bfloat16);
    else
        attend_many(tiles, scratch, is_bfloat16);
}

AVX2 static void attend_bfloat16(const Tile *tiles, int64_t num_heads, float *scratch) {
    attend(tiles, num_heads, scratch, 1);
}

AVX2 static void attend_float32(const Tile *tiles, int64_t num_heads, float *scratch) {
    attend(tiles, num_heads, scratch, 0);
}

/* Multiplications of a step. */
static int64_t work_of(const Call *call) {
    int64_t work = 0;
    for (int64_t s = 0; s < call->num_sequences; s++)
        work += (int64_t)(call->starts[s + 1] - call->starts[s]) * call->lengths[s];
    return work * call->query_heads * (call->key_dim + call->value_dim);
}

/* float32 numbers that a thread needs: those of attend_few or of attend_many. */
int64_t expertpool_attention_scratch(int64_t key_dim, int64_t value_dim) {
    int64_t few = TOGETHER * FEW * (key_dim + value_dim + KEYS);
    return at_least(few, (KEYS + TILE) * (key_dim + value_dim) + KEYS * PANEL);
}

typedef struct {
    const Call *call;
    int64_t together; /* heads of keys that few rows take together */
} Work;

/* Tiles by number: of all sequences and heads the first, then the second. */
static void attend_piece(const void *shared, int64_t number, int64_t thread) {
    const Work *work = shared;
    const Call *call = work->call;
    int64_t num_columns = call->num_sequences * call->kv_heads;
    int64_t each = call->query_heads / call->kv_heads, first_row = number / num_columns * TILE;
    int64_t sequence = number % num_columns / call->kv_heads, head = number % call->kv_heads;
    int64_t start = call->starts[sequence], num_tokens = call->starts[sequence + 1] - start;
    int64_t num_rows = at_most(TILE, num_tokens * each - first_row), num_heads = 1;
    if (num_rows <= 0) return;
    if (num_rows <= FEW) {
        if (head % work->together) return;
        num_heads = at_most(work->together, call->kv_heads - head);
    }
    Tile tiles[TOGETHER];
    for (int64_t h = 0; h < num_heads; h++)
        tiles[h] = (Tile){call,
                          head + h,
                          each,
                          start,
                          first_row,
                          num_rows,
                          call->lengths[sequence] - num_tokens,
                          call->tables + sequence * call->table_width};
    int64_t size = expertpool_attention_scratch(call->key_dim, call->value_dim);
    float *scratch = call->scratch + size * thread;
    (call->is_bfloat16 ? attend_bfloat16 : attend_float32)(tiles, num_heads, scratch);
}

void expertpool_attention(const Call *call) {
    int64_t most_rows = call->most_tokens * (call->query_heads / call->kv_heads);
    int64_t num_columns = call->num_sequences * call->kv_heads;
    int64_t num_threads = work_of(call) < LEAST ? 1 : call->num_threads;
    Work work = {call, call->num_sequences < 2 * num_threads ? 1 : TOGETHER};
    share(attend_piece, &work, (most_rows + TILE - 1) / TILE * num_columns, num_threads);
}
#endif
