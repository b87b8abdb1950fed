"""What a process of Ray does with a task. Knows neither Ray nor what the task is."""

import gc
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from representation.freed_memory import give_back


def carry_out(work: bytes, threads: int, nice: int, steps: int) -> Iterator[Any]:
    """Yield None at each of so many equal steps of a task, and then what a function gives for it.

    work: function and task, pickled. Reading them imports torch and transformers, which takes
    seconds of a core. So the priority is lowered before.   steps: with 0, the function is not asked
    how far it is. There are never more or fewer: Ray counts what a task yields, and goes on where
    it was when the task is run again.
    """
    if nice > os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, nice)  # of this thread, and of those it starts
    if steps == 0:
        yield _result(work, threads)
        return
    told: SimpleQueue[float | None] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_result, work, threads, told.put)
        running.add_done_callback(lambda _: told.put(None))
        done = 0
        while (share := told.get()) is not None:
            for _ in range(done, reached := min(steps, int(share * steps))):
                yield None
            done = max(done, reached)
        result = running.result()
        for _ in range(done, steps):
            yield None
        yield result


def _result(work: bytes, threads: int, *others: Any) -> Any:
    import torch

    torch.set_num_threads(threads)
    function, task = pickle.loads(work)
    try:
        return function(task, *others)
    finally:
        # A worker waits for its next task beside others that compute.
        gc.collect()
        if gc.get_freeze_count() == 0:
            gc.freeze()  # modules above all: looking through them takes half a second each time
        give_back()
