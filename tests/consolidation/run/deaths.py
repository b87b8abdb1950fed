"""Tasks that end badly, or tell how they run.

Light to import: every worker that is started anew imports them.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from consolidation.errors import Refused
from consolidation.run.executor import Tell


def dies_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os._exit(1)
    return "done"


def dies_halfway_once(path: str, tell: Tell) -> str:
    tell(0.5)
    time.sleep(0.2)
    dies_once(path)
    tell(0.75)
    return "done"


def dies(_: int) -> None:
    os._exit(1)


def refuses(number: int) -> int:
    if number == 2:
        raise Refused(f"not {number}")
    return number


def priority(_: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


class WhenRead:
    """Is read as the priority at which it is read."""

    def __reduce__(self) -> tuple[Callable[[int], int], tuple[int]]:
        return priority, (0,)


def same(task: object) -> object:
    return task


def alone(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    time.sleep(0.1)
    Path(path).unlink()
    return True


def together(path: str) -> str | None:
    """Ends once another such task in the directory runs. -> the GPUs that it is shown"""
    own = Path(path)
    own.touch()
    end = time.monotonic() + 60
    while len(list(own.parent.glob("?"))) < 2:
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)
    return os.environ.get("CUDA_VISIBLE_DEVICES")
