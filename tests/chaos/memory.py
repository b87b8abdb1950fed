"""What the processes of an endpoint hold: memory, open files, threads. Reads Linux's /proc."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SLACK_BYTES, SLACK_SHARE = 24 * 2**20, 0.03
"""What a process may have more of its own memory than before: freed pages stay with the allocator,
in as many arenas as there are threads. A leak of 12 KB with each abort would be above it."""
SLACK_FILES, SLACK_THREADS = 4, 2
"""Connections that are kept open, and threads of pools that had not been needed yet."""


@dataclass(frozen=True, slots=True)
class Held:
    """rss: bytes of the process's own, without files.   files: open.   threads: running."""

    rss: int
    files: int
    threads: int


def held(pid: int) -> Held:
    """Raises: OSError if it is gone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    told = dict(line.split(":", 1) for line in lines)
    rss = int(told["RssAnon"].split()[0]) * 1024
    return Held(rss, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(told["Threads"]))


def grown(before: Mapping[str, Held], after: Mapping[str, Held]) -> list[str]:
    """What is above the slack, by process."""
    found = []
    for name, old in before.items():
        new = after[name]
        most = old.rss + SLACK_BYTES + int(SLACK_SHARE * old.rss)
        if new.rss > most:
            found.append(f"{name}: {new.rss} bytes after {old.rss}")
        if new.files > old.files + SLACK_FILES:
            found.append(f"{name}: {new.files} open files after {old.files}")
        if new.threads > old.threads + SLACK_THREADS:
            found.append(f"{name}: {new.threads} threads after {old.threads}")
    return found
