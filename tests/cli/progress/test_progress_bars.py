"""What bars say on a terminal."""

import pytest

from consolidation.run.executor import Progress
from serve_app.cli.progress.progress_bars import Bars
from serve_app.cli.progress.showing import progress


def test_a_stage_says_what_it_found_and_its_bytes_within_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with progress() as show:
        assert isinstance(show, Bars)
        show(Progress("noise floor", 3, 4, 3, "models", (333 << 30, 444 << 30, 333 << 30)))
        show(Progress("noise floor", 4, 4, 3, "models", (444 << 30, 444 << 30, 333 << 30)))
    said = capsys.readouterr()
    assert said.out == ""
    assert "noise floor: 3 of 4 models are there already" in said.err
    assert "took" in said.err
    assert "444.00 GiB of 444.00 GiB" in said.err
