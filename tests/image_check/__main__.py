"""Builds the image with Buildah, goes through its contract, and prints a table. `make image-check`.

Needs root, Debian's `buildah` and `debootstrap`, and 10 GiB of disk; says so and ends where they
are missing. Logs and `image.json` go to the folder `$OUT` (by default `image`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from serve_app.bench.result.environment import environment
from serve_app.cli.processes import Interruption
from tests.chaos.endpoint import ROOT
from tests.image_check.builder import Image, missing
from tests.image_check.contract import ROWS
from tests.support.row import run_row
from tests.support.row_table import as_json, exit_code, table


def main(arguments: Sequence[str]) -> int:
    """1 if a row failed or nothing was built."""
    parser = argparse.ArgumentParser(prog="make image-check", description=__doc__)
    parser.add_argument("--target", choices=("cpu", "gpu"), default="cpu")
    asked = parser.parse_args(arguments)
    why = missing()
    if why:
        print(f"skipped: the image-check {why}")
        return 0
    out = Path(os.environ.get("OUT") or "image").resolve()
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    interruption = Interruption()
    interruption.install()
    here, begun = environment(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="image-", ignore_cleanup_errors=True) as folder:
        image = Image(Path(folder), out)
        try:
            print(f"building target {asked.target}; logs in {out}", flush=True)
            image.build(asked.target, _revision(), _version())
            print(f"built in {time.monotonic() - begun:.0f} s", flush=True)
            results = []
            for row in ROWS:
                results.append(run_row(row, image))
                print(table(results[-1:]), flush=True)
        except subprocess.CalledProcessError as error:
            print(f"{error}; see {out}")
            return 1
        except KeyboardInterrupt:
            print(f"ended by {interruption.name}; nothing that was built is left")
            return 130
        finally:
            image.close()
    file = out / "image.json"
    file.write_text(json.dumps(as_json("image", results, here), indent=2) + "\n", encoding="utf-8")
    print(f"\n{here.cpu}, {here.cores} cores, {time.monotonic() - begun:.0f} s\n{file}")
    return exit_code(results)


def _revision() -> str:
    told = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return told.stdout.strip()


def _version() -> str:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version: str = told["project"]["version"]
    return version


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
