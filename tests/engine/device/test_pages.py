"""Room for tensors is zeroed, wherever its pages begin and end."""

import sys
from pathlib import Path

import pytest
import torch

from serve_app.engine.device.pages import PAGE_BYTES, zeros

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_bytes", [0, 1, PAGE_BYTES - 1, PAGE_BYTES, 3 * PAGE_BYTES + 5])
def test_room_of_any_size_is_zeroed(num_bytes: int) -> None:
    for _ in range(2):  # the second time in memory that was used
        found = zeros((num_bytes,), dtype=torch.uint8, device=CPU)
        assert found.shape == (num_bytes,)
        assert not found.any()
        found.fill_(7)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such advice")
def test_large_room_lies_in_large_pages_where_the_system_gives_them() -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("this system gives no large pages")
    found = zeros((64 * PAGE_BYTES,), dtype=torch.uint8, device=CPU)
    assert _flags_at(found.data_ptr() + PAGE_BYTES) >= {"hg"}, "advised to be huge"


def _flags_at(address: int) -> set[str]:
    """Flags of the mapping that an address is in (proc(5), VmFlags)."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            start, end = (int(part, 16) for part in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return set(line.split()[1:])
    return set()
