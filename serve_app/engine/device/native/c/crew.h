/* Shares work among cores; see crew.c. */

#pragma once

#include <stdint.h>

/* Raised, here and in library.py, when a function is to be called with something else. */
#define INTERFACE 6

/* What is shared: called once with each number from 0 on, in any order, by any thread.
   thread: 0 for the caller, others for helpers; always less than the number of threads. */
typedef void (*Piece)(const void *work, int64_t number, int64_t thread);

/* Returns when all pieces are done, fewer than 2 ** 32.
   num_threads: that may work on them, the caller among them. */
void share(Piece piece, const void *work, int64_t num_pieces, int64_t num_threads);
