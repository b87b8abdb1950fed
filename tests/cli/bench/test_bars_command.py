"""`expertpool bench bars`, with measures that take no time."""

import json
from pathlib import Path

import pytest

from serve_app.bench.bars import bars
from serve_app.bench.bars.bar_list import BARS
from serve_app.bench.result.measured import Measured
from serve_app.cli.main import run


def test_it_ends_well_whatever_holds_and_writes_every_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(BARS)
    fixed = {name: Measured(1.0) for name in names}
    monkeypatch.setattr(bars, "MEASURES", {names: lambda _: fixed})
    json_file, html_file = tmp_path / "bars.json", tmp_path / "bars.html"
    assert run(["bench", "bars", "--json", str(json_file), "--html", str(html_file)]) == 0
    told = json.loads(json_file.read_text())["bars"]
    assert [bar["name"] for bar in told] == list(names)
    assert {bar["name"]: bar["holds"] for bar in told}["packed_over_single"] is True
    assert {bar["name"]: bar["holds"] for bar in told}["packed_over_sequential"] is False
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    assert "packed_over_sequential" in html_file.read_text()


def test_a_bar_that_is_none_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "bars", "--only", "packed_over_nothing"]) == 2
    assert "packed_over_nothing" in capsys.readouterr().err
