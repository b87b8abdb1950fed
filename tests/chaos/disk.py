"""A small disk of its own for the registry, so that it can be full. Needs root and mount(8)."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DISK_BYTES = 96 * 2**20


@contextmanager
def own_disk(place: Path) -> Iterator[bool]:
    """`place` on a disk of its own in the block. -> whether it is: mounting one needs root"""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "expertpool-chaos", str(place)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


@contextmanager
def full(folder: Path) -> Iterator[int]:
    """Nothing can be written to the folder's disk in the block. -> bytes that were free before

    Raises: OSError if it is not a disk of its own.
    """
    if not os.path.ismount(folder):
        raise OSError(f"{folder} is no disk of its own: mounting one needs root")
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    try:
        yield free
    finally:
        ballast.unlink()
