"""Room for tensors is zeroed, wherever its pages begin and end."""

import sys
from pathlib import Path

import pytest
import torch

from serve_app.engine.device.pages import PAGE_BYTES, with_rows, zeros

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_bytes", [0, 1, PAGE_BYTES - 1, PAGE_BYTES, 3 * PAGE_BYTES + 5])
def test_room_of_any_size_is_zeroed(num_bytes: int) -> None:
    for _ in range(2):  # the second time in memory that was used
        found = zeros((num_bytes,), dtype=torch.uint8, device=CPU)
        assert found.shape == (num_bytes,)
        assert not found.any()
        found.fill_(7)


@pytest.mark.parametrize("by_columns", [False, True])
def test_room_that_grows_has_as_many_rows_again_and_moves_nothing(by_columns: bool) -> None:
    laid = zeros((3, 512, 1024), dtype=torch.float32, device=CPU, grows=True)
    found = laid.transpose(-2, -1) if by_columns else laid
    found.copy_(torch.arange(float(3 << 19)).view(found.shape))
    longer = with_rows(found, 6)
    assert longer is not None
    assert longer.shape == (6, *found.shape[1:])
    assert longer.data_ptr() == found.data_ptr()
    assert torch.equal(longer[:3], found)
    assert with_rows(found, 7) is None
    assert found.nbytes == 3 << 21, "what is behind does not count"


def test_small_room_and_room_that_does_not_grow_have_no_more_rows() -> None:
    assert with_rows(zeros((3, 4), dtype=torch.float32, device=CPU, grows=True), 4) is None
    assert with_rows(zeros((3, 4), dtype=torch.float32, device=CPU), 4) is None


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
