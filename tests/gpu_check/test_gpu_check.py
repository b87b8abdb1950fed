"""The script behind `make gpu-check`: its rows, and a quick run of it on the CPU."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.engine.attention.native import PagedNative
from serve_app.engine.device.native.library import native
from tests.gpu_check.__main__ import CHECKS, checked, main
from tests.gpu_check.commands import ROOT, counts_of, figures, marked_files
from tests.gpu_check.ground import Ground
from tests.gpu_check.outcome import NeedsCudaError, Row, exit_code, row_of, table

QUICK = "attention forms"
ONLY_CUDA = {"graphs against none", "tests marked gpu"}
compiled = pytest.mark.skipif(native() is None, reason="nothing was compiled for this CPU")


def ground(out: Path, seconds: float = 60.0) -> Ground:
    return Ground("cpu", out, time.monotonic() + seconds)


def test_a_check_passes_fails_or_is_skipped_and_its_row_says_why() -> None:
    def finds() -> Mapping[str, Any]:
        return {"errors": 0.12345, "answers": 6}

    def fails() -> Mapping[str, Any]:
        raise ValueError("another token")

    def needs() -> Mapping[str, Any]:
        raise NeedsCudaError

    ticks = iter([0.0, 2.0, 3.0, 4.5, 5.0, 5.0])
    rows = [row_of(c.__name__, c, lambda: next(ticks)) for c in (finds, fails, needs)]
    assert [(row.outcome, row.seconds) for row in rows] == [
        ("passed", 2.0),
        ("failed", 1.5),
        ("skipped", 0.0),
    ]
    shown = table(rows)
    assert "errors 0.123, answers 6" in shown
    assert "skipped: needs CUDA" in shown
    assert "fails: ValueError at " in shown
    assert shown.endswith("another token")
    assert (exit_code(rows), exit_code(rows[::2])) == (1, 0)


def test_long_figures_take_several_lines_of_the_table() -> None:
    shown = table([Row("name", "passed", 1.0, {f"point {n}": 1.5 for n in range(30)})])
    assert len(shown.splitlines()) > 3
    assert shown.count("point") == 30


def test_a_row_of_steps_needs_numbers() -> None:
    row = {"step_s": 0.01, "floor_s": 0.004, "reached": 0.4, "parts": "dense", "models": 4}
    row |= {"residuals": ["packed-1-128"], "sequences": 16}
    assert figures({"rows": [row]}) == {"dense+packed-1-128 4×16": "10.00 ms (40%)"}
    with pytest.raises(AssertionError, match="no time"):
        figures({"rows": [row | {"step_s": math.nan}]})
    with pytest.raises(AssertionError, match="nothing was measured"):
        figures({"rows": []})


def test_the_tests_that_are_counted_are_those_of_pytests_last_line() -> None:
    said = "..s\n3 passed in the morning\n2 passed, 1 skipped, 40 deselected in 1.02s\n"
    assert counts_of(said) == {"passed": 2, "skipped": 1, "deselected": 40}
    assert counts_of("") == {}


def test_files_with_a_test_marked_gpu_are_found() -> None:
    found = [str(Path(file).relative_to(ROOT)) for file in marked_files(ROOT / "tests")]
    assert "tests/engine/test_mixes.py" in found
    assert "tests/gpu_check/test_gpu_check.py" not in found


def test_what_only_a_device_can_do_is_skipped_on_the_cpu(tmp_path: Path) -> None:
    rows = checked(ground(tmp_path), sorted(ONLY_CUDA), lambda _: None)
    assert {row.outcome for row in rows} == {"skipped"}
    assert set(CHECKS) > ONLY_CUDA


def test_rounding_on_the_cpu_is_that_of_the_cpu(tmp_path: Path) -> None:
    [row] = checked(ground(tmp_path), ["rounding"], lambda _: None)
    assert row.outcome == "passed", row.why
    assert row.found["3 bits, equal codes"] == 1


@pytest.mark.slow
def test_consolidation_on_the_cpu_is_that_of_the_cpu(tmp_path: Path) -> None:
    [row] = checked(ground(tmp_path), ["consolidation against the CPU"], lambda _: None)
    assert row.outcome == "passed", row.why
    assert row.found["equal slots"] == "100%"


def test_what_has_not_begun_in_time_fails(tmp_path: Path) -> None:
    [row] = checked(ground(tmp_path, seconds=-1.0), [QUICK], lambda _: None)
    assert row.outcome == "failed"
    assert "no time is left" in row.why


@compiled
def test_a_run_on_the_cpu_prints_a_table_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "found"))
    monkeypatch.setattr("tests.gpu_check.attention.WINDOWS", (24,))
    assert main(["--device", "cpu", "--only", QUICK]) == 0
    assert "native 32 equal, 0 refused" in capsys.readouterr().out
    told = json.loads((tmp_path / "found" / "gpu-check.json").read_text())
    assert [(row["name"], row["outcome"]) for row in told["rows"]] == [(QUICK, "passed")]
    assert told["environment"]["device"] == "cpu"


@compiled
def test_a_form_that_computes_something_else_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(PagedNative, "attend", lambda _, call: torch.zeros(1).to(call.query.dtype))
    assert main(["--device", "cpu", "--only", QUICK]) == 1
    assert "it gives (1,)" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_nothing_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--device cpu" in capsys.readouterr().err
