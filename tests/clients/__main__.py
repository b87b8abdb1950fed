"""Asks an endpoint as real clients do, prints a table, writes JSON. `make clients-test`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from serve_app.bench.result.environment import environment
from tests.chaos.endpoint import ROOT, Endpoint
from tests.clients.calling import Facts
from tests.clients.client_family import ClientFamily
from tests.clients.refusals import REFUSALS
from tests.clients.verdicts import FAILED, Verdict, table, unasked, verdicts
from tests.serving.family import FAMILY

CLIENTS = tuple(sorted(file.stem for file in (Path(__file__).parent / "asked").glob("[!_]*.py")))
LONGEST_S = 600.0
"""Of all calls of one client."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "127.0.0.1",
}
"""Clients ask the endpoint and nobody else."""


def outcomes(python: Path, client: str, facts: Facts, out: Path) -> Iterator[dict[str, Any]]:
    """What a client saw, call by call.   out: gets what it printed."""
    command = [str(python), "-m", "tests.clients.calling", client]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            command,
            cwd=ROOT,
            input=facts.as_json(),
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            env={**os.environ, **OFFLINE, "HOME": home, "HF_HOME": home, "PYTHONPATH": str(ROOT)},
            check=False,
        )
    (out / f"{client}.log").write_text(done.stderr, encoding="utf-8")
    yield from map(json.loads, done.stdout.splitlines())
    if done.returncode:
        yield {
            "client": client,
            "call": "the process",
            "error": f"exit {done.returncode}",
            "said": done.stderr[-400:],
            "seconds": time.monotonic() - begun,
        }


def run(
    python: Path, clients: Sequence[str], out: Path, say: Callable[[str], None]
) -> list[Verdict]:
    """python: of the environment in which the clients are."""
    with tempfile.TemporaryDirectory(prefix="expertpool-clients-") as place:
        say("the family")
        family = ClientFamily(Path(place))
        options = [
            *("--family", FAMILY, "--registry", family.tiny.url, "--kv-tokens", "32768"),
            *("--keys", str(family.keys_path)),
        ]
        say("the endpoint")
        endpoint = Endpoint(options, out, key=family.operator_key)
        try:
            facts = family.facts(endpoint.address)
            lines: list[dict[str, Any]] = []
            for client in clients:
                say(client)
                lines += outcomes(python, client, facts, out)
        finally:
            endpoint.stop()
    rows = verdicts(lines, REFUSALS)
    gone = [
        Verdict(each.client, each.call, FAILED, "on the list of refusals, and never asked", 0.0)
        for each in unasked(lines, REFUSALS)
    ]
    return [*rows, *gone]


def main(arguments: Sequence[str]) -> int:
    """1 if a call failed."""
    parser = argparse.ArgumentParser(prog="make clients-test", description=__doc__)
    parser.add_argument("--python", type=Path, required=True, metavar="FILE")
    parser.add_argument("--only", action="append", choices=CLIENTS, metavar="CLIENT")
    asked = parser.parse_args(arguments)
    out = Path(os.environ.get("OUT") or "clients").resolve()
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    torch.set_num_threads(1)  # the cores are the endpoint's
    here, begun = environment(), time.monotonic()
    rows = run(
        asked.python.absolute(), asked.only or CLIENTS, out, lambda words: print(words, flush=True)
    )
    body = {
        "kind": "clients",
        "environment": asdict(here),
        "rows": [asdict(row) for row in rows],
    }
    file = out / "clients.json"
    file.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    seconds = time.monotonic() - begun
    print(f"\n{here.cpu}, {here.cores} cores, {seconds:.0f} s\n{table(rows)}\n\n{file}")
    return int(any(row.result == FAILED for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
