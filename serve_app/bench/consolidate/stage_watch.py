"""Watches a process and all below it: seconds and memory, stage by stage. Linux."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serve_app.bench.http.processor_time import parts, processor_s, running

PAGES = ("RssAnon", "RssShmem")
"""Fields of /proc/<pid>/status that count: what a process holds by itself."""
LOOK_S = 0.5
"""How often to look for new processes: it reads every process of the machine, so it takes many
times as long as a sample, and would take cores from what is measured."""


@dataclass(slots=True)
class Stage:
    """What a stage took.

    wall_s, processor_s: seconds by the clock, and of all threads of all processes.
    memory_bytes: the peak of what they held together, beyond the start.
    """

    name: str
    wall_s: float = 0.0
    processor_s: float = 0.0
    memory_bytes: int = 0


class Watch:
    """Stages of a process and its descendants. Before the first note, a stage without a name."""

    def __init__(self, root: int) -> None:
        self.stages = [Stage("")]
        self.start_bytes = 0
        self._root = root
        self._since = time.perf_counter()
        self._spent: dict[int, float] = {}
        self._looked: float | None = None
        self._pids: list[int] = []

    def note(self, name: str) -> None:
        """A stage begins, or goes on. The start is that of the first stage with a name."""
        self._looked = None
        held = self.sample()
        if self.stages[-1].name != name:
            if not self.stages[-1].name:
                self.start_bytes = held
            self.stages.append(Stage(name))

    def sample(self) -> int:
        """Count for the stage what was spent since the last sample. -> bytes held now"""
        stage, now = self.stages[-1], time.perf_counter()
        tree = self._tree(now)
        stage.wall_s += now - self._since
        self._since = now
        for pid, spent in processor_s(tree).items():
            stage.processor_s += spent - self._spent.get(pid, 0.0)
            self._spent[pid] = spent
        held = held_bytes(tree)
        stage.memory_bytes = max(stage.memory_bytes, held - self.start_bytes)
        return held

    def _tree(self, now: float) -> list[int]:
        if self._looked is None or now - self._looked >= LOOK_S:
            self._looked, self._pids = now, list(parts(self._root, 0, running()))
        return self._pids


def held_bytes(pids: Iterable[int]) -> int:
    """Bytes of anonymous and shared pages that processes have in memory; 0 of one that ended."""
    return sum(_held(pid) for pid in pids)


def _held(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in PAGES if name in fields)
