"""How tasks are run: here, one after another; by Ray in `consolidation/run/ray_tasks.py`.

A task is a function of one picklable value that returns plain JSON values: numbers, digests,
names; never tensors. It may be run again after it was cut short, so it must be idempotent.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is, for a progress bar."""

    stage: str
    done: int
    total: int


class Executor(Protocol):
    """Runs tasks, a bounded number of them at a time."""

    def map(
        self,
        function: Callable[[Task], Any],
        tasks: Sequence[Task],
        *,
        in_flight: int | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, its result) as tasks end, in any order.

        At most `in_flight` run at once, or as many as the executor has room for. What a task
        raises on purpose is raised here; a worker that dies is replaced and its task run again.
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
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            yield index, function(task)
