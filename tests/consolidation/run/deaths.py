"""Tasks that end badly, or tell how they run.

Light to import: every worker that is started anew imports them.
"""

import os
from pathlib import Path

from consolidation.errors import Refused


def dies_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os._exit(1)
    return "done"


def dies(_: int) -> None:
    os._exit(1)


def refuses(number: int) -> int:
    if number == 2:
        raise Refused(f"not {number}")
    return number


def priority(_: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)
