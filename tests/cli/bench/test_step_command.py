"""`expertpool bench step` on a shape of one small layer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from consolidation.release import Registry
from serve_app.bench.http.publishing import publish
from serve_app.bench.step import rates
from serve_app.bench.step.rates import Rates
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.cli.main import run
from tests.bench.tiny import tiny_config

SMALL = [
    *("bench", "step", "--shape", "mixtral-115m", "--layers", "1", "--models", "1,2"),
    *("--sequences", "2", "--context", "4", "--steps", "2", "--step-tokens", "16"),
]
BLOCKED = ("fastapi", "ray", "starlette", "uvicorn")
NOT_OURS = (*BLOCKED, "fsspec", "httpx", "jinja2", "matplotlib", "pydantic")
"""What libraries import for themselves is theirs: this typer has pydantic in it."""
PROGRAM = f"""
import builtins, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(name)

def guarded(name, globals=None, *others, imported=builtins.__import__, **more):
    ours = ("serve_app", "consolidation", "representation")
    importer = (globals or {{}}).get("__name__", "").split(".")[0]
    if importer in ours and name.split(".")[0] in {NOT_OURS!r}:
        raise ModuleNotFoundError(name)
    return imported(name, globals, *others, **more)

sys.meta_path.insert(0, Block())
builtins.__import__ = guarded
from serve_app.bench.step import rates
rates.LEAST_S, rates.CPU_SIDE, rates.CPU_COPY_BYTES = 0.0, 64, 1 << 16
from serve_app.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates of some machine, without measuring this one."""
    monkeypatch.setattr(rates, "measure_rates", lambda *_: Rates(1e10, {"bfloat16": 1e11}))


def test_it_imports_neither_pydantic_nor_ray_nor_http(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    command = [sys.executable, "-c", PROGRAM, *SMALL, "--phase", "decode", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(file.read_text())["rows"]) == 2


def test_it_prints_a_table_and_writes_json_and_a_page(
    quick: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {name: tmp_path / f"step.{name}" for name in ("json", "html")}
    options = [part for name, file in files.items() for part in (f"--{name}", str(file))]
    monkeypatch.setattr("serve_app.bench.step.outside.SEQUENCES", (2, 4))
    assert run([*SMALL, *options, "--residual", "none,rank-2", "--cold", "--outside"]) == 0
    shown = capsys.readouterr().out
    assert "cold backbones of" in shown
    assert "outside the forward" in shown
    assert "copying 10.0 GB/s" in shown
    assert "reached" in shown
    assert "rank-2" in shown
    told = json.loads(files["json"].read_text())
    assert told["kind"] == "step"
    assert told["settings"]["shape"] == "mixtral-115m"
    assert told["rates"]["copy_bytes_s"] == 1e10
    assert told["cold"]["cold_s"] > 0
    assert [row["sequences"] for row in told["outside"]] == [2, 2, 4, 4]
    assert min(row["outside_s"] for row in told["outside"]) > 0
    assert {row["phase"] for row in told["rows"]} == {"decode", "prefill"}
    assert len(told["rows"]) == 2 * 2 * 2
    page = files["html"].read_text()
    assert page.count("<svg") == 4
    assert "Cold backbones" in page
    assert "Outside the forward" in page
    assert "mixtral-115m" in page


def test_a_published_release_is_measured_as_it_is(quick: None, tmp_path: Path) -> None:
    registry, file = Registry(str(tmp_path), "tiny"), tmp_path / "step.json"
    release = publish(RandomRelease(tiny_config(), 2), registry)
    asked = ["--registry", str(tmp_path), "--family", "tiny", "--release", release[:8]]
    small = ["--sequences", "2", "--context", "4", "--steps", "1", "--phase", "decode"]
    assert run(["bench", "step", *asked, *small, "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert told["settings"]["release"] == release
    assert [row["models"] for row in told["rows"]] == [1, 2]  # of 1, 2, 4, 8
    assert run(["bench", "step", *asked, "--models", "3"]) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--shape", "mixtral-9000"], "mixtral-9000"),
        (["--layers", "99"], "99"),
        (["--models", "1,x"], "'x'"),
        (["--models", "2,2"], "given twice"),
        (["--sequences", "1"], "models 2"),
        (["--context", "5000"], "context 5000"),
        (["--phase", "decoding"], "decoding"),
        (["--places", "1"], "places 1"),
        (["--parts", "packed-9-1"], "packed-9-1"),
        (["--parts", "rank-2"], "rank-2"),
        (["--residual", "dense"], "dense"),
        (["--residual", "rank-2+rank-2"], "rank-2+rank-2"),
        (["--device", "tpu"], "tpu"),
        (["--models", "1", "--cold"], "--cold"),
        (["--outside"], "sequences 64: no step of at most 16 tokens"),
        (["--family", "f"], "--registry"),
        (["--registry", ".", "--family", "f"], "--shape"),
        (["--json", "/does/not/exist/x.json"], "/does/not/exist"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_built(
    options: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve_app.bench.step.timing.open_engine", lambda *_: pytest.fail("built"))
    monkeypatch.setattr(rates, "measure_rates", lambda *_: pytest.fail("measured"))
    assert run([*SMALL, *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err
