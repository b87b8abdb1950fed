"""Runs each row on Ray's nodes, prints a table, writes JSON. `make cluster-test`."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from serve_app.bench.result.environment import environment
from serve_app.cli.processes import Interruption, adopt_orphans, end_children
from tests.cluster.catalogue import ROWS
from tests.cluster.site import Site
from tests.support.row import Result, Row, run_row
from tests.support.row_table import as_json, exit_code, table

GRACE_S = 2.0


def run(rows: Sequence[Row[Site]], out: Path, say: Callable[[str], None]) -> list[Result]:
    """A result for each row. After one that failed, the next gets a cluster of its own."""
    results = []
    with tempfile.TemporaryDirectory(prefix="ep-", ignore_cleanup_errors=True) as place:
        say("the family and its references")
        site = Site(Path(place), out)
        try:
            for row in rows:
                say(f"{row.name} …")
                results.append(run_row(row, site))
                say(table(results[-1:]))
                if results[-1].passed is False:
                    site.close()
        finally:
            site.close()
            end_children(GRACE_S)
    return results


def main(arguments: Sequence[str]) -> int:
    """1 if a row failed."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="make cluster-test", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, metavar="NAME")
    asked = parser.parse_args(arguments)
    out = Path(os.environ.get("OUT") or "cluster").resolve()
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    torch.set_num_threads(1)  # the cores are the cluster's
    adopt_orphans()
    interruption = Interruption()
    interruption.install()
    here, begun = environment(), time.monotonic()
    chosen = [row for row in ROWS if not asked.only or row.name in asked.only]
    try:
        results = run(chosen, out, lambda words: print(words, flush=True))
    except KeyboardInterrupt:
        print(f"ended by {interruption.name}; nothing that was started is left", flush=True)
        return 130
    file = out / "cluster.json"
    file.write_text(
        json.dumps(as_json("cluster", results, here), indent=2) + "\n", encoding="utf-8"
    )
    seconds = time.monotonic() - begun
    print(f"\n{here.cpu}, {here.cores} cores, {seconds:.0f} s\n{table(results)}\n\n{file}")
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
