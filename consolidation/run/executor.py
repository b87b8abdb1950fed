"""How tasks are run: here, one after another; by Ray in `consolidation/run/ray_tasks.py`.

A task is a function of one picklable value that returns plain JSON values: numbers, digests,
names, never tensors. A task that was cut short is run again, so it must be idempotent.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is, for a progress bar.

    done, total: tasks, of which `found` had been done by an earlier run; `noun` says of what.
    num_bytes: of checkpoints, as far as that can be told: done, in all, and found.
    """

    stage: str
    done: int
    total: int
    found: int = 0
    noun: str = "tasks"
    num_bytes: tuple[int, int, int] | None = None


class Executor(Protocol):
    """Runs tasks, a bounded number of them at a time."""

    def map(
        self,
        function: Callable[[Task], Any],
        tasks: Sequence[Task],
        *,
        in_flight: int | None = None,
        task_bytes: int = 0,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, its result) as tasks end, in any order.

        As many run at once as the executor has room for, and at most `in_flight`. `task_bytes` is
        the most memory that one of them takes: a machine runs no more than fit it, but one in any
        case. An exception of a task is raised here. A worker that dies is replaced and its task is
        run again.
        """
        ...


class LocalExecutor:
    """Runs every task in this process, in order."""

    def map(
        self,
        function: Callable[[Task], Any],
        tasks: Sequence[Task],
        *,
        in_flight: int | None = None,
        task_bytes: int = 0,
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            yield index, function(task)
