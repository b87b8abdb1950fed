"""What a log says while a long command runs."""

import pytest

from consolidation.run.executor import Progress
from serve_app.cli.progress.progress_lines import Lines
from serve_app.cli.progress.showing import progress

GIB = 1 << 30


def test_a_stage_is_told_when_it_begins_sometimes_between_and_when_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = iter([0.0, 10.0, 40.0, 50.0, 80.0])
    show = Lines(clock=lambda: next(times))
    for done in range(5):
        show(Progress("scan", done, 4, 0, "parts", (done * GIB, 4 * GIB, 0)))
    assert capsys.readouterr().err.splitlines() == [
        "scan: 0 B of 4.00 GiB",
        "scan: 2.00 GiB of 4.00 GiB, 51.20 MiB/s, 40 s left",
        "scan: 4.00 GiB of 4.00 GiB, 51.20 MiB/s, took 80 s",
    ]


def test_what_was_found_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as show:
        show(Progress("calibrate", 3, 4, 3, "models", (3 * GIB, 4 * GIB, 3 * GIB)))
        show(Progress("calibrate", 4, 4, 3, "models", (4 * GIB, 4 * GIB, 3 * GIB)))
        show(Progress("compare", 2, 2, 2, "layers", (4 * GIB, 4 * GIB, 4 * GIB)))
    said = capsys.readouterr()
    assert said.out == ""
    first, begun, ended, compared = said.err.splitlines()
    assert first == "calibrate: 3 of 4 models are there already"
    assert begun == "calibrate: 3.00 GiB of 4.00 GiB"
    assert ended.startswith("calibrate: 4.00 GiB of 4.00 GiB, ")
    assert compared == "compare: 2 of 2 layers are there already"
