"""Results of finished tasks, kept so that a killed run can continue where it stopped.

Kept in `<registry>/<family>/work/<recipe digest>/`, one small JSON file a task, and removed once
the release is published. Holds facts about blobs, never blobs. What other recipes may use as well
is in `run/kept_results.py`.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeVar

from consolidation.release.storage import Storage
from consolidation.run.executor import Executor, Progress
from representation.canonical import canonical_json
from representation.json_text import parse_json

Task = TypeVar("Task")


class Journal(Protocol):
    """Results by key, within one recipe."""

    def get(self, key: str) -> Any:
        """The result kept under this key, or None."""
        ...

    def put(self, key: str, result: Any) -> None:
        """Keep a result (JSON values)."""
        ...

    def close(self) -> None:
        """Forget everything: the recipe is done."""
        ...


class NoJournal:
    """Keeps nothing: for runs that must write nothing."""

    def get(self, key: str) -> Any:
        return None

    def put(self, key: str, result: Any) -> None:
        pass

    def close(self) -> None:
        pass


class StoredResults:
    """Keeps results in a directory of a storage."""

    def __init__(self, storage: Storage, directory: str) -> None:
        self._storage = storage
        self._directory = directory

    def get(self, key: str) -> Any:
        data = self._storage.read(self._path(key))
        try:
            content = parse_json(data) if data is not None else None
        except ValueError:
            return None  # Not whole: as if the task had not been run.
        return content["result"] if content and content.get("key") == key else None

    def put(self, key: str, result: Any) -> None:
        self._storage.write(self._path(key), canonical_json({"key": key, "result": result}))

    def _path(self, key: str) -> str:
        return f"{self._directory}/{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


WORK = "work"
"""The directory of runs that have not ended."""
_BEGUN = "begun"


class StoredJournal(StoredResults):
    """Keeps results in the registry's storage, under the digest of the recipe.

    Processes that carry out one recipe at once share it; the last of them forgets. A context.
    """

    def __init__(self, storage: Storage, recipe_digest: str) -> None:
        super().__init__(storage, f"{WORK}/{recipe_digest}")
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._is_alone = self._open.enter_context(self._storage.share(f"{self._directory}.lock"))
        self.put(_BEGUN, True)
        return self

    def __exit__(self, *error: object) -> None:
        with self._open:
            begun = self._path(_BEGUN).rpartition("/")[2]
            if self._storage.names(self._directory) == [begun] and self._is_alone():
                self._storage.remove(self._directory)

    def close(self) -> None:
        if self._is_alone():
            self._storage.remove(self._directory)


@dataclass(frozen=True, slots=True)
class Stages:
    """Runs stages: each task once. Results come from the journal where it has them."""

    executor: Executor
    journal: Journal
    progress: Callable[[Progress], None]

    def run(
        self,
        stage: str,
        function: Callable[..., Any],
        tasks: Sequence[tuple[str, Task]],
        *,
        noun: str,
        sizes: Sequence[int],
        in_flight: int | None = None,
        task_bytes: int = 0,
        device_bytes: int = 0,
        still_good: Callable[[Any], bool] = lambda _: True,
        tells: bool = False,
    ) -> list[Any]:
        """Results of (key, task) pairs, in their order. Keys are unique within the stage.

        noun: what a task is about, as in "3 of 4 models".   sizes: the bytes of checkpoints that
        each task is about.   in_flight, task_bytes, device_bytes: as for `Executor.map`. A task
        whose kept result is not `still_good` is run again.   tells: whether the function says how
        far a task is.
        """
        results = {i: self.journal.get(f"{stage} {key}") for i, (key, _) in enumerate(tasks)}
        pending = [i for i, kept in results.items() if kept is None or not still_good(kept)]
        far = _Far(self.progress, stage, noun, sizes, pending)
        on_share = (lambda at, share: far.is_at(pending[at], share)) if tells else None
        far.tell()
        ran = self.executor.map(
            function,
            [tasks[i][1] for i in pending],
            in_flight=in_flight,
            task_bytes=task_bytes,
            device_bytes=device_bytes,
            on_share=on_share,
        )
        for position, result in ran:
            index = pending[position]
            self.journal.put(f"{stage} {tasks[index][0]}", result)
            results[index] = result
            far.ended(index)
        return [results[i] for i in range(len(tasks))]


class _Far:
    """How far a stage is: counts tasks and bytes, and tells of them.

    sizes: bytes of all tasks.   pending: those that were not found done.
    """

    def __init__(
        self,
        progress: Callable[[Progress], None],
        stage: str,
        noun: str,
        sizes: Sequence[int],
        pending: Sequence[int],
    ) -> None:
        self._progress = progress
        self._start = Progress(stage, 0, len(sizes), len(sizes) - len(pending), noun)
        self._sizes = sizes
        self._shares = dict.fromkeys(pending, 0.0)
        """Of each task that has not ended, what is done."""
        self._found_bytes = sum(sizes) - sum(sizes[i] for i in pending)

    def is_at(self, index: int, share: float) -> None:
        """Such a share of a task is done."""
        self._shares[index] = share
        self.tell()

    def ended(self, index: int) -> None:
        """A task has a result."""
        del self._shares[index]
        self.tell()

    def tell(self) -> None:
        """Tell how far the stage is now."""
        total = sum(self._sizes)
        left = sum((1 - share) * self._sizes[i] for i, share in self._shares.items())
        self._progress(
            replace(
                self._start,
                done=len(self._sizes) - len(self._shares),
                share=sum(self._shares.values()),
                num_bytes=(total - round(left), total, self._found_bytes),
            )
        )
