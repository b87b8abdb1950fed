"""What a task has freed goes back to the system."""

import sys
from pathlib import Path

import pytest
import torch

from representation import freed_memory
from representation.freed_memory import GivingBack, give_back


def held_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("RssAnon"))
    return int(found.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_small_tensors_that_are_gone_leave_no_memory_behind() -> None:
    give_back()
    before = held_bytes()
    tensors = [torch.ones(4000) for _ in range(8000)]  # 128 MB, too small to be mapped one by one
    kept = tensors[-1]  # lies behind all the others
    del tensors
    give_back()
    assert held_bytes() - before < 32e6
    assert float(kept.sum()) == 4000


def test_freed_memory_goes_back_once_for_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[int]()
    monkeypatch.setattr(freed_memory, "give_back", lambda: given.append(1))
    left = GivingBack(100)
    found = []
    for _ in range(10):
        left.count(40)
        found.append(len(given))
    assert found == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
