"""Processor time of a process and all its descendants, by what each is. Reads Linux's /proc."""

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
ENGINE, TEXT, INGRESS, CLIENT = "engine", "text", "ingress", "client"
THIS, OTHER = "this command", "other"
_PARTS: Mapping[str, str] = {
    r"^ray::ServeReplica:\w+:Engine": ENGINE,
    r"^ray::ServeReplica:\w+:Ingress": INGRESS,
    r"^ray::LeaseActor": "leases of limits",
    r"^ray::ServeController": "Serve's controller",
    r"^ray::ProxyActor|haproxy": "Serve's proxy",
    r"raylet/raylet": "raylet",
    r"gcs_server": "gcs_server",
    r"DashboardAgent|RuntimeEnvAgent|dashboard\.py|log_monitor\.py|monitor\.py": "Ray's agents",
}
"""What a command line says about the process; the first that is found counts."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process. command: its command line, or the name that it gave itself."""

    pid: int
    parent: int
    command: str


def running() -> list[Process]:
    """Every process of this machine that can be read. Raises: OSError without /proc."""
    found = []
    for place in PROC.iterdir():
        if place.name.isdigit():
            try:
                stat = (place / "stat").read_text()
                command = (place / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended since
            parent = int(stat.rpartition(")")[2].split()[1])
            words = command.replace(b"\0", b" ").decode(errors="replace").strip()
            found.append(Process(int(place.name), parent, words))
    return found


def parts(root: int, client: int, processes: Iterable[Process]) -> dict[int, str]:
    """What `root`, its client and its other descendants are, by process id.

    A descendant of the engine is `text`: the engine has no other children.
    """
    children: dict[int, list[Process]] = defaultdict(list)
    for process in processes:
        children[process.parent].append(process)
    found = {root: THIS}
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        for child in children[parent]:
            of_engine = found[parent] in (ENGINE, TEXT)
            found[child.pid] = TEXT if of_engine else _part(child, client)
            waiting.append(child.pid)
    return found


def _part(process: Process, client: int) -> str:
    if process.pid == client:
        return CLIENT
    return next((part for sign, part in _PARTS.items() if re.search(sign, process.command)), OTHER)


def processor_s(pids: Iterable[int]) -> dict[int, float]:
    """The processor time, in seconds, that each process has taken; none for one that has ended."""
    found = {}
    for pid in pids:
        try:
            found[pid] = time.clock_gettime(_clock(pid))
        except OSError:
            continue
    return found


def _clock(pid: int) -> int:
    """The clock of the processor time of another process, as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | 2


def own_tree(client: int) -> dict[int, str]:
    """`parts` of this process now."""
    return parts(os.getpid(), client, running())
