/* Recurrences of one token for each of many sequences. recurrent.py calls it.

   Each state is read from memory once and written once: what is done to it between takes it from
   the cache. */

#include "bfloat16.h"
#include "crew.h"

#if defined(__x86_64__) && defined(__GNUC__)

typedef struct {
    float *states;         /* (…, num_heads, height, width) */
    const int64_t *rows;   /* (num_sequences,): which state each has */
    const float *by_row;   /* of each line of a state */
    const float *by_column; /* of each column of a state */
    const float *reads;
    const float *decays, *rates; /* (num_sequences, num_heads) */
    float *out;
    int64_t num_sequences, num_heads, num_groups;
    int64_t height, width, num_threads;
} Recurrence;

/* Adds factor * x to sums. */
INLINE void add_times(float *restrict sums, const float *restrict x, float factor, int64_t width) {
    for (int64_t i = 0; i < width; i++) sums[i] += factor * x[i];
}

#define WIDEST 1024 /* columns of a state that are worked on at a time */

/* One head of one sequence: the state S (height, width), a key (height), a value (width).
     S = decay * S;  S += key * (rate * (value - key S));  out = query S
   key S is taken before the decay, and both of S's passes are one after another in the cache. */
AVX2 static void delta_head(const Recurrence *call, int64_t number, int64_t thread) {
    (void)thread;
    int64_t sequence = number / call->num_heads, head = number % call->num_heads;
    int64_t height = call->height, width = call->width;
    int64_t group = head / (call->num_heads / call->num_groups);
    int64_t of_group = (sequence * call->num_groups + group) * height;
    float *state = call->states + (call->rows[sequence] * call->num_heads + head) * height * width;
    const float *key = call->by_row + of_group, *query = call->reads + of_group;
    const float *value = call->by_column + number * width;
    float decay = call->decays[number], rate = call->rates[number];
    float *restrict out = call->out + number * width;
    for (int64_t from = 0; from < width; from += WIDEST) {
        int64_t count = width - from < WIDEST ? width - from : WIDEST;
        float held[WIDEST] = {0}, found[WIDEST] = {0};
        for (int64_t i = 0; i < height; i++)
            add_times(held, state + i * width + from, key[i], count);
        for (int64_t j = 0; j < count; j++)
            held[j] = rate * (value[from + j] - decay * held[j]);
        for (int64_t i = 0; i < height; i++) {
            float *restrict line = state + i * width + from;
            float k = key[i], q = query[i];
            for (int64_t j = 0; j < count; j++) {
                line[j] = decay * line[j] + k * held[j];
                found[j] += q * line[j];
            }
        }
        for (int64_t j = 0; j < count; j++) out[from + j] = found[j];
    }
}

#define LANES 16

/* One head of one sequence: the state S (height, width), x (height), b and c (width).
     S = decay * S + x * b;  out = S c */
AVX2 static void space_head(const Recurrence *call, int64_t number, int64_t thread) {
    (void)thread;
    int64_t sequence = number / call->num_heads, head = number % call->num_heads;
    int64_t height = call->height, width = call->width, whole = width - width % LANES;
    int64_t group = head / (call->num_heads / call->num_groups);
    int64_t of_group = (sequence * call->num_groups + group) * width;
    float *state = call->states + (call->rows[sequence] * call->num_heads + head) * height * width;
    const float *x = call->by_row + number * height;
    const float *restrict b = call->by_column + of_group, *restrict c = call->reads + of_group;
    float decay = call->decays[number];
    for (int64_t i = 0; i < height; i++) {
        float *restrict line = state + i * width;
        float given = x[i], sums[LANES] = {0}, sum = 0;
        for (int64_t j = 0; j < whole; j += LANES)
            for (int lane = 0; lane < LANES; lane++) {
                float held = decay * line[j + lane] + given * b[j + lane];
                line[j + lane] = held;
                sums[lane] += held * c[j + lane];
            }
        for (int64_t j = whole; j < width; j++) {
            line[j] = decay * line[j] + given * b[j];
            sums[j - whole] += line[j] * c[j];
        }
        for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
        call->out[number * height + i] = sum;
    }
}

static void delta_piece(const void *work, int64_t number, int64_t thread) {
    delta_head(work, number, thread);
}

static void space_piece(const void *work, int64_t number, int64_t thread) {
    space_head(work, number, thread);
}

void expertpool_delta_rule(const Recurrence *call) {
    share(delta_piece, call, call->num_sequences * call->num_heads, call->num_threads);
}

void expertpool_state_space(const Recurrence *call) {
    share(space_piece, call, call->num_sequences * call->num_heads, call->num_threads);
}

#endif
