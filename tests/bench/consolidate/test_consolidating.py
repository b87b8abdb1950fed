"""Seconds and memory of each stage of consolidating, of all processes together."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.bench.consolidate.consolidating import Subject, measure, write_family, write_text
from serve_app.bench.consolidate.stage_watch import Watch
from serve_app.bench.weights.shapes import SHAPES

SLACK = 24 << 20
"""What the allocator keeps, and the libraries that the first task of a kind imports."""
HELD = 64 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def _measured(directory: Path, config: dict[str, Any], num_models: int) -> dict[str, Any]:
    directory.mkdir(exist_ok=True)
    write_text(directory / "text.txt")
    paths = write_family(directory / "models", Subject(config, num_models))
    return measure(paths, directory, 1.0, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_scanning_comparing_and_building_hold_does_not_grow_with_layers(
    tmp_path: Path,
) -> None:
    held = []
    for layers in (2, 6):
        config = SHAPES["mixtral-115m"].config(layers, hidden_size=256, intermediate_size=512)
        found = _measured(tmp_path / f"{layers}", config, 3)
        held.append({stage["name"]: stage["memory_bytes"] for stage in found["stages"]})
    few, many = held
    for name in ("scan", "compare", "plan", "backbone", "build"):
        assert many[name] < 1.1 * few[name] + SLACK, name


HOLDING = """
import os, sys
print("begun", flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:
    held = b"1" * int(sys.argv[1])
    print("held", flush=True)
    sys.stdin.readline()
    os._exit(0)
os.waitpid(child, 0)
print("gone", flush=True)
sys.stdin.readline()
"""


def test_memory_of_a_process_below_counts_and_goes_with_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(HELD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watch = Watch(process.pid)
        for stage in ("begun", "held", "gone"):
            assert process.stdout.readline() == f"{stage}\n"
            watch.note(stage)
            watch.sample()
            process.stdin.write("\n")
    found = {stage.name: stage.memory_bytes for stage in watch.stages}
    assert found["held"] > HELD
    assert found["gone"] < found["begun"] + HELD / 2
