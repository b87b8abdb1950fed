"""How tasks are run: here, one after another; by Ray in `consolidation/run/ray_tasks.py`.

A task is a function of one picklable value that returns plain JSON values: numbers, digests,
names, never tensors. A task that was cut short is run again, so it must be idempotent.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is, for a progress bar.

    done, total: tasks, of which `found` had been done by an earlier run; `noun` says of what.
    share: of the tasks that run, what is done, together: 0.5 for half of one task.
    num_bytes: of checkpoints, as far as that can be told: done, in all, and found.
    """

    stage: str
    done: int
    total: int
    found: int = 0
    noun: str = "tasks"
    num_bytes: tuple[int, int, int] | None = None
    share: float = 0.0


OnShare = Callable[[int, float], None]
"""Told which task has done which share of its work."""
Tell = Callable[[float], None]
"""Told by a task which share of it is done, from 0 to 1. Not for several threads at a time."""


def tell_nobody(share: float) -> None:
    """For tasks that nobody waits for."""


class Executor(Protocol):
    """Runs tasks, a bounded number of them at a time."""

    def map(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Task],
        *,
        in_flight: int | None = None,
        task_bytes: int = 0,
        device_bytes: int = 0,
        on_share: OnShare | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, its result) as tasks end, in any order.

        The function gets a task; where there is `on_share`, also a `Tell`.

        As many run at once as the executor has room for, and at most `in_flight`. `task_bytes` is
        the most memory that one of them takes: a machine runs no more than fit it, but one in any
        case. `device_bytes` is the same of a device that computes; 0: the CPU does.
        An exception of a task is raised here. A worker that dies is replaced and its task is run
        again.
        """
        ...


class LocalExecutor:
    """Runs every task in this process, in order."""

    def map(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Task],
        *,
        in_flight: int | None = None,
        task_bytes: int = 0,
        device_bytes: int = 0,
        on_share: OnShare | None = None,
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            if on_share is None:
                yield index, function(task)
            else:
                yield index, function(task, partial(on_share, index))
