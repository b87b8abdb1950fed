"""Where the outcome of a benchmark is written."""

import json
from pathlib import Path

import pytest

from serve_app.bench.bars.bar_list import BARS
from serve_app.bench.bars.bars import row
from serve_app.cli.bench import files
from serve_app.cli.errors import WrongUse
from tests.bench.result.results import result


def test_a_file_that_could_not_be_written_is_refused_by_name(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / "out.json"
    with pytest.raises(WrongUse, match=f"--json {nowhere}"):
        files.require_writable(nowhere, None)
    with pytest.raises(WrongUse, match=f"--html {tmp_path}: it is a directory"):
        files.require_writable(None, tmp_path)


def test_a_page_is_refused_where_nothing_can_draw_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PLOTTING", ("nosuchlibrary",))
    with pytest.raises(WrongUse, match="its plots need nosuchlibrary"):
        files.require_writable(None, tmp_path / "page.html")
    files.require_writable(tmp_path / "out.json", None)


def test_a_result_is_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    rows = [row(BARS["scaling"], None, "there was no time")]
    found = result("bars", rows, measures={"scaling": {"value": float("nan")}})
    files.write(found, tmp_path / "out.json", tmp_path / "page.html")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["rows"][0]["value"] is None
    assert written["measures"] == {"scaling": {"value": None}}
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
