"""Does each fault once to an endpoint under load, prints a table, writes JSON. `make chaos`."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from serve_app.bench.result.environment import environment
from tests.chaos.catalogue import FAULTS
from tests.chaos.disk import own_disk
from tests.chaos.endpoint import ROOT, Endpoint
from tests.chaos.family import NAMES, OPERATOR, TENANTS, Family
from tests.chaos.fault import Fault, Row, Setting, run_fault
from tests.chaos.ground import Ground
from tests.chaos.ledger import counts
from tests.chaos.load import Load
from tests.chaos.slow_files import SlowFiles
from tests.chaos.table import as_json, exit_code, table
from tests.serving.family import FAMILY

CLIENTS_PER_TENANT = 4


def options(setting: Setting, family: Family, out: Path) -> list[str]:
    """Of `serve`, in which the last of two counts.   out: gets the usage records."""
    found = [
        *("--family", FAMILY, "--registry", family.tiny.url, "--keys", str(family.keys_path)),
        *("--usage", str(out / "usage"), "--kv-tokens", "4096", "--ingresses", "2"),
    ]
    if setting is not Setting.ROOMY:
        found += ["--num-places", "2", "--max-model-wait", "0.2"]
    if setting in (Setting.TIGHT, Setting.REMOTE):
        found += ["--host-memory", "256KB"]
    if setting is Setting.REMOTE:
        found += ["--registry", f"{SlowFiles.protocol}://{family.tiny.url}"]
    return found


class Endpoints:
    """One endpoint at a time, in the setting that the next fault needs."""

    def __init__(self, family: Family, out: Path) -> None:
        self._family, self._out = family, out
        self._setting: Setting | None = None
        self._open: ExitStack | None = None
        self._ground: Ground | None = None

    def ground(self, setting: Setting) -> Ground:
        if self._ground is None or setting is not self._setting:
            self.close()
            self._family.move(self._family.first)
            self._open = ExitStack()
            endpoint = Endpoint(
                options(setting, self._family, self._out),
                self._out,
                key=self._family.keys[OPERATOR],
                variables=self._family.control.variables(ROOT),
            )
            self._open.callback(endpoint.stop)
            keys = [self._family.keys[tenant] for tenant in TENANTS] * CLIENTS_PER_TENANT
            load = Load(endpoint.address, keys, NAMES, self._family.references)
            self._open.callback(load.close)
            self._setting = setting
            self._ground = Ground(endpoint=endpoint, load=load, family=self._family, out=self._out)
        return self._ground

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = self._ground = None


def run(faults: Sequence[Fault[Ground]], out: Path, say: Callable[[str], None]) -> list[Row]:
    """A row for each fault. After one that was not held out, the endpoint is started anew."""
    rows = []
    with _root() as root:
        say("the family and its references")
        endpoints = Endpoints(Family(root), out)
        try:
            for fault in sorted(faults, key=lambda one: list(Setting).index(one.setting)):
                say(fault.name)
                rows.append(_row(fault, endpoints))
                say(table(rows[-1:]))
                if fault.ends or not rows[-1].passed:
                    endpoints.close()
        finally:
            endpoints.close()
    return rows


def _row(fault: Fault[Ground], endpoints: Endpoints) -> Row:
    try:
        ground = endpoints.ground(fault.setting)
    except TimeoutError as error:
        return Row(fault.name, False, 0.0, None, counts([]), {}, why=str(error))
    return run_fault(fault, ground)


@contextmanager
def _root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="expertpool-chaos-") as place:
        root = Path(place)
        with own_disk(root / "registry"):
            yield root


def main(arguments: Sequence[str]) -> int:
    """1 if a fault was not held out."""
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, metavar="NAME")
    asked = parser.parse_args(arguments)
    out = Path(os.environ.get("OUT") or "chaos").resolve()
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    torch.set_num_threads(1)  # the cores are the endpoint's
    here, begun = environment(), time.monotonic()
    chosen = [fault for fault in FAULTS if not asked.only or fault.name in asked.only]
    rows = run(chosen, out, lambda words: print(words, flush=True))
    file = out / "chaos.json"
    file.write_text(json.dumps(as_json(rows, here), indent=2) + "\n", encoding="utf-8")
    seconds = time.monotonic() - begun
    print(f"\n{here.cpu}, {here.cores} cores, {seconds:.0f} s\n{table(rows)}\n\n{file}")
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
