"""What Linux says of free memory, for a machine and for a container's group."""

from pathlib import Path

import torch

from serve_app.engine.device.free_memory import free_bytes

CPU = torch.device("cpu")


def test_the_smaller_of_what_the_machine_and_the_group_have_left_counts(tmp_path: Path) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    assert free_bytes(CPU, meminfo, group) is None
    meminfo.write_text("MemTotal:  90 kB\nMemAvailable:  50 kB\n")
    assert free_bytes(CPU, meminfo, group) == 50 << 10
    group.mkdir()
    (group / "memory.current").write_text("30000\n")
    (group / "memory.stat").write_text("anon 1000\ninactive_file 4000\n")
    (group / "memory.max").write_text("max\n")
    assert free_bytes(CPU, meminfo, group) == 50 << 10
    (group / "memory.max").write_text("40000\n")
    assert free_bytes(CPU, meminfo, group) == 14000
