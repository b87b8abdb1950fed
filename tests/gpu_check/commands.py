"""Checks that are commands in processes of their own: tests marked `gpu`, and `bench step`."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.gpu_check.ground import Ground

ROOT = Path(__file__).parents[2]
EXPERTPOOL = "import sys; from serve_app.cli.main import run; sys.exit(run(sys.argv[1:]))"
MARK = ".".join(("pytest", "mark", "gpu"))
WORKLOADS = {
    "cuda": [
        *("--shape", "mixtral-8x7b", "--layers", "4", "--models", "1,4"),
        *("--sequences", "16,64", "--context", "256", "--steps", "20"),
    ],
    "cpu": [
        *("--shape", "mixtral-115m", "--layers", "2", "--models", "1,4"),
        *("--sequences", "16", "--context", "16", "--steps", "5", "--step-tokens", "512"),
    ],
}
"""What `bench step` measures, by device."""


def marked_tests(ground: Ground) -> dict[str, Any]:
    """pytest -m gpu: all pass, and at least one runs."""
    ground.require_cuda()
    options = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    said = _done([sys.executable, *options, *marked_files(ROOT / "tests")], ground)
    counts = counts_of(said)
    assert counts.get("passed", 0) > 0, f"no test ran: {said[-300:]}"
    return counts


def dense_steps(ground: Ground) -> dict[str, Any]:
    """`bench step`, dense slots and slots of 4 bits, and what is outside the forward."""
    more = ["--parts", "dense,packed-4-128"]
    return _bench(ground, "dense", more if ground.device == "cpu" else [*more, "--outside"])


def consolidated_steps(ground: Ground) -> dict[str, Any]:
    """`bench step` in the formats of a release in the bytes of one model."""
    return _bench(ground, "consolidated", ["--parts", "split-8-128", "--residual", "packed-2-128"])


def marked_files(tests: Path) -> list[str]:
    """Those with a test marked `gpu`; the others may import what a GPU machine does not have."""
    files = sorted(tests.rglob("test_*.py"))
    return [str(file) for file in files if MARK in file.read_text(encoding="utf-8")]


def counts_of(said: str) -> dict[str, int]:
    """`passed`, `failed`, `skipped`, … in the last line of pytest."""
    lines = said.strip().splitlines()
    return {
        word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", (lines or [""])[-1])
    }


def figures(told: dict[str, Any]) -> dict[str, str]:
    """What a row of `bench step` says, by its point. Raises: AssertionError for no number."""
    found = {}
    for row in told["rows"]:
        numbers = (row["step_s"], row["floor_s"], row["reached"])
        assert all(math.isfinite(number) and number > 0 for number in numbers), f"no time: {row}"
        parts = "+".join([row["parts"], *row["residuals"]])
        point = f"{parts} {row['models']}×{row['sequences']}"
        found[point] = f"{row['step_s'] * 1e3:.2f} ms ({row['reached']:.0%})"
    assert found, "nothing was measured"
    return found


def _bench(ground: Ground, name: str, options: Sequence[str]) -> dict[str, Any]:
    file = ground.out / f"step-{name}.json"
    asked = ["bench", "step", "--device", ground.device, "--phase", "decode", "--json", str(file)]
    _done([sys.executable, "-c", EXPERTPOOL, *asked, *WORKLOADS[ground.device], *options], ground)
    return figures(json.loads(file.read_text(encoding="utf-8")))


def _done(command: Sequence[str], ground: Ground) -> str:
    """What a command prints. Raises: RuntimeError with the end of it, if it fails."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=ground.left_s()
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
