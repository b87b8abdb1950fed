"""What a process of Ray does with a task. Knows neither Ray nor what the task is."""

import os
import pickle
from typing import Any


def carry_out(work: bytes, threads: int, nice: int) -> Any:
    """What a function gives for a task.   work: both of them, pickled.

    Reading them imports torch and transformers, which takes seconds of a core. So the priority is
    lowered before.
    """
    if nice > os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, nice)  # of this thread, and of those it starts
    import torch

    torch.set_num_threads(threads)
    function, task = pickle.loads(work)
    return function(task)
