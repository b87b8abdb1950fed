"""`expertpool bench` on the smallest checkpoints there are."""

import json
import sys

import pytest

from serve_app.cli.main import run

SMALL = ["--models=2", "--layers=1", "--experts=2", "--hidden=16", "--intermediate=32"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_every_stage_of_consolidating_has_its_time_and_its_peak(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["bench", "consolidate", *SMALL, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in told["stages"]] == [
        *("read", "open", "scan", "calibrate", "compare", "plan"),
        *("backbone", "build", "validate", "publish"),
    ]
    assert told["checkpoint_bytes"] > told["layer_bytes"]
    for stage in told["stages"]:
        assert stage["wall_s"] > 0
        assert stage["anonymous_bytes"] >= 0
