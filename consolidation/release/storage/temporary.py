"""Files of a local directory that appear as a whole, or not at all. Cleans up after the dead."""

import fcntl
import os
import re
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_HERE = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
_LEFT = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_DAY_S = 24 * 3600.0


def write_whole(target: Path, data: bytes) -> None:
    """Replaces a file. Raises OSError, with nothing left of it.

    It is written next to the target, under a lock that ends with this process, and then renamed.
    """
    while True:
        temporary = target.with_name(f".{target.name}.{_HERE}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                _lock(file)
                if temporary.exists():  # else it was taken for left before it was locked
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    temporary.replace(target)
                    return
        finally:
            temporary.unlink(missing_ok=True)


def remove_left(directory: Path) -> None:
    """Removes what processes that were killed in `write_whole` have left, here and below.

    That is what was written on this machine and nobody has locked. Locks of another machine need
    not be seen here, so its files must be a day old.
    """
    for path in directory.rglob(".*.tmp"):
        if _LEFT.fullmatch(path.name):
            with suppress(OSError):  # gone meanwhile, or not ours
                _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    if time.time() - path.stat().st_mtime > _DAY_S:
        path.unlink()
    elif f".{_HERE}." in path.name:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError while it is being written
            path.unlink()


def _lock(file: BinaryIO) -> None:
    with suppress(OSError):  # a file system without locks: then only a day tells
        fcntl.flock(file, fcntl.LOCK_EX)
