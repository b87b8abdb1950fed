"""Fetches files, some at a time, and says how far that is. Decides not which files."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from threading import Event, Lock
from typing import TypeVar

from consolidation.run.executor import Progress
from consolidation.sources.remote import Remote

AT_ONCE = 8
"""As huggingface_hub's `snapshot_download` does: one connection seldom has all of the network."""

OnProgress = Callable[[Progress], None]
Result = TypeVar("Result")


def at_once(
    calls: Sequence[Callable[[], Result]], give_up: Callable[[], None] = lambda: None
) -> list[Result]:
    """What calls return, in their order. When one raises, those that have not begun never do.

    give_up: called then, before those that have begun are waited for.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(call) for call in calls]
        try:
            for one in as_completed(running):
                one.result()
        except BaseException:
            give_up()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [one.result() for one in running]


class _GivenUp(Exception):
    """Another file could not be fetched, or the run was stopped."""


class Fetching:
    """Weights on their way. `progress` is told from any thread, but from one at a time."""

    def __init__(self, files: Sequence[tuple[Remote, str]], progress: OnProgress) -> None:
        self._files = files
        self._progress = progress
        self._total = sum(remote.sizes[name] for remote, name in files)
        self._found = sum(remote.sizes[name] for remote, name in files if remote.is_here(name))
        self._done = 0
        self._ended = 0
        self._lock = Lock()
        self._given_up = Event()

    def run(self) -> None:
        """Raises: Refused, RunFailed, and what `progress` raises."""
        self._tell()
        calls = [partial(self._fetch, remote, name) for remote, name in self._files]
        at_once(calls, self._given_up.set)

    def _fetch(self, remote: Remote, name: str) -> None:
        arrived = 0

        def add(num_bytes: int) -> None:
            nonlocal arrived
            arrived += num_bytes
            self._add(num_bytes)

        remote.fetch(name, add)
        self._add(remote.sizes[name] - arrived, ended=1)

    def _add(self, num_bytes: int, ended: int = 0) -> None:
        with self._lock:
            if self._given_up.is_set():
                raise _GivenUp
            self._done += num_bytes
            self._ended += ended
            self._tell()

    def _tell(self) -> None:
        if self._found == self._total:
            return
        num_bytes = (self._done, self._total, self._found)
        now = Progress("fetch", self._ended, len(self._files), noun="files", num_bytes=num_bytes)
        self._progress(now)
