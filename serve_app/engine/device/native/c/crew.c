/* Threads that help with work which takes some tens of microseconds, thousands of times a second.

   A region of OpenMP waits until every thread has come, even if there is nothing left to do. Here
   whoever has work does it at once, and those that come in time take pieces of it: a helper that
   sleeps, or whose core somebody else has, delays nobody but by the piece that it is at.

   One caller has the helpers at a time; another works alone meanwhile. So does the child of a
   process that was forked, which has no helpers. */

#define _GNU_SOURCE
#include "crew.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#define MOST 63
#define PATIENCE 10000 /* looks before a helper sleeps: 0.2 ms or so, longer than a step's pauses */
#define YIELD 100000   /* looks before the caller lets others run instead of its helpers */

static struct {
    /* Round in the upper half, pieces that nobody has taken in the lower. Whoever takes one has
       seen the fields below as they are in that round: they change when no piece is left. */
    _Atomic uint64_t open;
    _Atomic(Piece) piece;
    _Atomic(const void *) work;
    _Atomic int64_t num_helpers; /* that may help */
    _Atomic int64_t num_done;

    _Atomic int num_asleep;
    pthread_mutex_t bed;
    pthread_cond_t morning;

    pthread_mutex_t caller;
    int num_there;
} crew = {.bed = PTHREAD_MUTEX_INITIALIZER,
          .morning = PTHREAD_COND_INITIALIZER,
          .caller = PTHREAD_MUTEX_INITIALIZER};

static int has_open(uint64_t open) { return (uint32_t)open != 0; }

static int is_wanted(int64_t helper) {
    return has_open(atomic_load(&crew.open)) && helper <= atomic_load(&crew.num_helpers);
}

/* Do pieces until none is left. */
static void help(int64_t thread) {
    uint64_t open = atomic_load(&crew.open);
    while (has_open(open)) {
        Piece piece = atomic_load(&crew.piece);
        const void *work = atomic_load(&crew.work);
        if (thread > atomic_load(&crew.num_helpers)) return; /* another round than it came for */
        if (!atomic_compare_exchange_weak(&crew.open, &open, open - 1)) continue;
        piece(work, (int64_t)(uint32_t)open - 1, thread);
        atomic_fetch_add(&crew.num_done, 1);
        open = atomic_load(&crew.open);
    }
}

static void *live(void *number) {
    int64_t helper = (int64_t)(intptr_t)number; /* from 1 on */
    for (;;) {
        for (int look = 0; look < PATIENCE && !is_wanted(helper); look++) _mm_pause();
        if (!is_wanted(helper)) {
            pthread_mutex_lock(&crew.bed);
            atomic_fetch_add(&crew.num_asleep, 1);
            while (!is_wanted(helper)) pthread_cond_wait(&crew.morning, &crew.bed);
            atomic_fetch_sub(&crew.num_asleep, 1);
            pthread_mutex_unlock(&crew.bed);
        }
        help(helper);
    }
    return NULL;
}

static void forget(void) {
    crew.num_there = 0;
    atomic_store(&crew.num_asleep, 0);
    pthread_mutex_init(&crew.bed, NULL);
    pthread_cond_init(&crew.morning, NULL);
}

/* Helpers take no signals: those are for the threads that there were. */
static void hire(int64_t num_helpers) {
    static int is_first = 1;
    if (is_first) pthread_atfork(NULL, NULL, forget);
    is_first = 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; crew.num_there < num_helpers; crew.num_there++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, live, (void *)(intptr_t)(crew.num_there + 1))) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void share(Piece piece, const void *work, int64_t num_pieces, int64_t num_threads) {
    int64_t num_helpers = (num_threads < num_pieces ? num_threads : num_pieces) - 1;
    if (num_helpers > MOST) num_helpers = MOST;
    if (num_helpers < 1 || pthread_mutex_trylock(&crew.caller)) {
        for (int64_t number = 0; number < num_pieces; number++) piece(work, number, 0);
        return;
    }
    hire(num_helpers);
    atomic_store(&crew.piece, piece);
    atomic_store(&crew.work, work);
    atomic_store(&crew.num_helpers, num_helpers);
    atomic_store(&crew.num_done, 0);
    uint64_t round = (atomic_load(&crew.open) >> 32) + 1;
    atomic_store(&crew.open, round << 32 | (uint64_t)num_pieces);
    if (atomic_load(&crew.num_asleep)) {
        pthread_mutex_lock(&crew.bed);
        pthread_cond_broadcast(&crew.morning);
        pthread_mutex_unlock(&crew.bed);
    }
    help(0);
    for (int look = 0; atomic_load(&crew.num_done) < num_pieces; look++)
        look < YIELD ? _mm_pause() : (void)sched_yield();
    pthread_mutex_unlock(&crew.caller);
}

int64_t expertpool_interface(void) { return INTERFACE; }

#endif
