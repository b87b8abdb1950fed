"""Runs the checks one after another, prints a table, writes JSON. `make gpu-check` calls it."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from serve_app.bench.result.environment import environment
from tests.gpu_check import answers, attention, commands, engines, stages
from tests.gpu_check.ground import Ground
from tests.gpu_check.outcome import Row, as_json, exit_code, row_of, table

MOST_S = 480.0
"""All is done after this long; what has not begun by then fails."""
CHECKS: Mapping[str, Callable[[Ground], Mapping[str, Any]]] = {
    "attention forms": attention.attention_forms,
    "golden answers, float32": answers.golden_in_float32,
    "golden answers, bfloat16": answers.golden_in_bfloat16,
    "formats of experts, bfloat16": answers.formats_in_bfloat16,
    "graphs against none": engines.graphs_against_none,
    "memory against its plan": engines.memory_against_plan,
    "rounding": stages.rounding_on_the_device,
    "consolidation against the CPU": stages.consolidation_against_the_cpu,
    "bench step, dense": commands.dense_steps,
    "bench step, consolidated": commands.consolidated_steps,
    "tests marked gpu": commands.marked_tests,
}
"""By name, in the order in which they run."""


def checked(ground: Ground, names: Sequence[str], say: Callable[[str], None]) -> list[Row]:
    """A row for each of these checks. say: gets the name of each before it runs."""
    rows = []
    for name in names:
        say(name)
        rows.append(row_of(name, partial(_run, name, ground)))
    return rows


def main(arguments: Sequence[str]) -> int:
    """1 if a check failed, 2 if nothing can be checked."""
    parser = argparse.ArgumentParser(prog="make gpu-check", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", action="append", choices=CHECKS, metavar="NAME")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; --device cpu checks the script", file=sys.stderr)
        return 2
    out = Path(os.environ.get("OUT") or "gpu-check")
    out.mkdir(parents=True, exist_ok=True)
    here = environment(asked.device)
    ground = Ground(asked.device, out.resolve(), time.monotonic() + MOST_S)
    rows = checked(ground, asked.only or list(CHECKS), lambda name: print(f"… {name}", flush=True))
    file = out / "gpu-check.json"
    file.write_text(json.dumps(as_json(rows, here), indent=2) + "\n", encoding="utf-8")
    print(f"\n{here.device}, torch {here.versions['torch']}\n{table(rows)}\n\n{file}")
    return exit_code(rows)


def _run(name: str, ground: Ground) -> Mapping[str, Any]:
    ground.left_s()
    return CHECKS[name](ground)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
