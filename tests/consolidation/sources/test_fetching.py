"""Files are fetched some at a time, and when one cannot be, the others are given up."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Barrier, Event

import pytest

from consolidation.errors import RunFailed
from consolidation.run.executor import Progress
from consolidation.sources.fetching import AT_ONCE, Fetching, at_once
from consolidation.sources.remote import OnBytes


class Slow:
    """A remote whose files wait for each other. `broken` fails once the others have begun."""

    called, cache, directory = "there", Path("/cache"), Path("/cache/there")

    def __init__(self, names: list[str], broken: str | None = None) -> None:
        self.sizes: Mapping[str, int] = dict.fromkeys(names, 10)
        self.given_up: list[str] = []
        self._broken = broken
        self._together = Barrier(len(names), timeout=10)
        self._is_over = Event()

    def is_here(self, name: str) -> bool:
        return False

    def read(self, name: str, start: int, end: int) -> bytes:
        raise NotImplementedError

    def fetch(self, name: str, on_bytes: OnBytes) -> None:
        self._together.wait()
        if name == self._broken:
            raise RunFailed("gone")
        if self._broken is None:
            on_bytes(10)
            return
        try:
            while not self._is_over.wait(0.001):
                on_bytes(0)
        except Exception:
            self.given_up.append(name)
            raise


def test_several_files_are_under_way_at_once_and_all_their_bytes_are_counted() -> None:
    names = [f"{index}" for index in range(AT_ONCE)]
    remote, seen = Slow(names), list[Progress]()
    Fetching([(remote, name) for name in names], seen.append).run()
    assert [one.num_bytes for one in (seen[0], seen[-1])] == [(0, 80, 0), (80, 80, 0)]
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert seen[-1].done == AT_ONCE


def test_what_is_under_way_is_given_up_when_another_file_fails() -> None:
    remote = Slow(["a", "b", "c"], broken="b")
    with pytest.raises(RunFailed, match="gone"):
        Fetching([(remote, name) for name in "abc"], lambda _: None).run()
    assert sorted(remote.given_up) == ["a", "c"]


def test_results_come_in_the_order_of_the_calls() -> None:
    assert at_once([partial(str, value) for value in range(50)]) == list(map(str, range(50)))
