"""How the command ends on a signal, with every process it started. Knows no command."""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Interruption:
    """SIGTERM, Ctrl-C and SIGHUP, as an exception that unwinds the command, and as an exit code.

    The first of them raises KeyboardInterrupt in the main thread, so that `finally` clauses close
    what is open; later ones are ignored, because the command is already on its way out.
    """

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number: int | None = None

    def install(self) -> None:
        """Handle the signals. Call it again after a library (Ray) has replaced the handlers.

        SIGHUP stays ignored where it is, as `nohup` has it.
        """
        signal.signal(signal.SIGTERM, self._receive)
        signal.signal(signal.SIGINT, self._receive)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._receive)

    @property
    def name(self) -> str:
        """The signal that came: `SIGTERM`, say."""
        return "nothing" if self.number is None else signal.Signals(self.number).name

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            raise KeyboardInterrupt


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent dies, so that `end_children` finds them."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children(grace_s: float) -> None:
    """End every process below this one: ask first, and kill after `grace_s` seconds."""
    deadline = time.monotonic() + grace_s
    asked: set[int] = set()
    while living := descendants(os.getpid()):
        insist = time.monotonic() > deadline
        for pid in living:
            if insist or pid not in asked:
                _send(pid, signal.SIGKILL if insist else signal.SIGTERM)
                asked.add(pid)
        if time.monotonic() > deadline + grace_s:
            return
        _reap()
        time.sleep(0.02)


def descendants(root: int) -> list[int]:
    """Pids of the living processes below `root`, parents first. Empty without /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name, which may hold spaces and parentheses) state ppid …
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = list(children.get(root, ()))
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, ()))
    return found


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
