"""How much memory a machine has left for a process. Allocates nothing, and reserves nothing."""

from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device, meminfo: Path = _MEMINFO, group: Path = _GROUP) -> int | None:
    """Bytes that can still be allocated on a device; None if the system does not tell.

    On the CPU: what Linux can give without swapping, and what the container's group may still take.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_available(meminfo), _left_in_group(group)]
    return min((each for each in found if each is not None), default=None)


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _left_in_group(group: Path) -> int | None:
    """Pages of files that nothing uses count as free, as in MemAvailable. None without a limit."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = (group / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    files = dict(zip(stat[::2], stat[1::2], strict=True)).get("inactive_file", "0")
    return max(0, int(limit) - used + int(files))
