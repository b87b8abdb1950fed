"""Results of finished tasks, kept so that a killed run can continue where it stopped.

Kept in `<registry>/<family>/work/<recipe digest>/`, one small JSON file a task, and removed once
the release is published. Holds facts about blobs, never blobs.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from consolidation.release.manifest import canonical_json
from consolidation.release.storage import Storage
from consolidation.run.executor import Executor, Progress

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


class StoredJournal:
    """Keeps results in the registry's storage, under the digest of the recipe.

    Processes that carry out one recipe at once share it; the last of them forgets. A context.
    """

    def __init__(self, storage: Storage, recipe_digest: str) -> None:
        self._storage = storage
        self._directory = f"work/{recipe_digest}"
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._is_alone = self._open.enter_context(self._storage.share(f"{self._directory}.lock"))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def get(self, key: str) -> Any:
        data = self._storage.read(self._path(key))
        try:
            content = json.loads(data) if data is not None else None
        except ValueError:
            return None  # Not whole: as if the task had not been run.
        return content["result"] if content and content.get("key") == key else None

    def put(self, key: str, result: Any) -> None:
        self._storage.write(self._path(key), canonical_json({"key": key, "result": result}))

    def close(self) -> None:
        if self._is_alone():
            self._storage.remove(self._directory)

    def _path(self, key: str) -> str:
        return f"{self._directory}/{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


@dataclass(frozen=True, slots=True)
class Stages:
    """Runs stages: each task once. Results come from the journal where it has them."""

    executor: Executor
    journal: Journal
    progress: Callable[[Progress], None]

    def run(
        self,
        stage: str,
        function: Callable[[Task], Any],
        tasks: Sequence[tuple[str, Task]],
        *,
        noun: str,
        sizes: Sequence[int],
        in_flight: int | None = None,
        task_bytes: int = 0,
        still_good: Callable[[Any], bool] = lambda _: True,
    ) -> list[Any]:
        """Results of (key, task) pairs, in their order. Keys are unique within the stage.

        noun: what a task is about, as in "3 of 4 models".   sizes: the bytes of checkpoints that
        each task is about.   in_flight, task_bytes: as for `Executor.map`. A task whose kept result
        is not `still_good` is run again.
        """
        results = {i: self.journal.get(f"{stage} {key}") for i, (key, _) in enumerate(tasks)}
        pending = [i for i, kept in results.items() if kept is None or not still_good(kept)]
        found, total_bytes = len(tasks) - len(pending), sum(sizes)
        found_bytes = total_bytes - sum(sizes[i] for i in pending)

        def tell(done: int, done_bytes: int) -> None:
            num_bytes = (done_bytes, total_bytes, found_bytes)
            self.progress(Progress(stage, done, len(tasks), found, noun, num_bytes))

        done, done_bytes = found, found_bytes
        tell(done, done_bytes)
        ran = self.executor.map(
            function, [tasks[i][1] for i in pending], in_flight=in_flight, task_bytes=task_bytes
        )
        for position, result in ran:
            index = pending[position]
            self.journal.put(f"{stage} {tasks[index][0]}", result)
            results[index] = result
            done, done_bytes = done + 1, done_bytes + sizes[index]
            tell(done, done_bytes)
        return [results[i] for i in range(len(tasks))]
