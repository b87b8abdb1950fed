"""Runs the steps one after another and prints a table. `make olmoe` calls it.

What is there is not done again, so a run that was ended goes on. The folder is $OUT.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from serve_app.bench.consolidate.consolidate_terminal import terminal
from serve_app.bench.weights.shapes import SHAPES
from serve_app.cli.bench.shown import show, stages
from tests.real_size.steps import SHAPE, Place, compared, consolidated, disk_bytes, made

GIB = 1 << 30


def main(arguments: Sequence[str]) -> int:
    """1 if answers differ too much or a limit of memory is broken, 2 if nothing can be run."""
    parser = argparse.ArgumentParser(prog="make olmoe", description=__doc__)
    parser.add_argument("--layers", type=int, default=SHAPES[SHAPE].num_layers)
    asked = parser.parse_args(arguments)
    directory = Path(os.environ.get("OUT") or "olmoe")
    directory.mkdir(parents=True, exist_ok=True)
    place = Place(directory.resolve(), asked.layers)
    used = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    need, free = disk_bytes(asked.layers), shutil.disk_usage(directory).free + used
    if free < need:
        print(f"{directory}: needs {need / GIB:.0f} GiB of disk, {free / GIB:.0f} are free")
        return 2
    with stages() as on_progress:
        made(place, on_progress)
        facts = consolidated(place, on_progress)
    show(terminal(facts))
    found = compared(place)
    print(json.dumps(found, indent=2))
    (directory / "olmoe.json").write_text(json.dumps({**facts, **found}, indent=2) + "\n")
    return int(not found["passed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
