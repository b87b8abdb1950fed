"""`expertpool bench consolidate` and `bench make-checkpoint` on the smallest checkpoints."""

import json
import sys
from pathlib import Path

import pytest

from consolidation.checkpoints.checkpoint import open_checkpoint
from serve_app.bench.weights import shapes
from serve_app.cli.main import run

TINY = shapes.Shape(
    "mixtral",
    0.0,
    {
        "vocab_size": 264,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape of a few thousand parameters, called `tiny`."""
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_every_stage_of_consolidating_has_its_time_and_its_peak(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--shape=tiny", "--layers=1", "--models=2", "--cores=1", "--json"]
    assert run(["bench", "consolidate", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in told["stages"]] == [
        *("read", "open", "noise floor", "scan", "origins", "calibrate", "compare", "plan"),
        *("backbone", "build", "validate", "publish"),
    ]
    assert all(stage["wall_s"] > 0 for stage in told["stages"])
    assert told["wall_s"] == pytest.approx(sum(s["wall_s"] for s in told["stages"][1:]))
    assert told["over_stated_read"] == pytest.approx(
        told["wall_s"] / (told["checkpoint_bytes"] / 3e9)
    )
    assert told["peak_bytes"] >= told["start_bytes"] > 0


def test_a_base_and_a_fine_tune_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = str(tmp_path / "base"), str(tmp_path / "tuned")
    assert run(["bench", "make-checkpoint", base, "--shape=tiny", "--layers=1"]) == 0
    assert run(["bench", "make-checkpoint", tuned, "--from", base]) == 0
    assert capsys.readouterr().out == f"made {base}\nmade {tuned}\n"
    opened = [open_checkpoint(Path(path)) for path in (base, tuned)]
    assert opened[0].config == opened[1].config
    assert len(opened[0].experts) == 1


def test_a_fine_tune_has_the_shape_of_its_base(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "make-checkpoint", "x", "--from", ".", "--shape=tiny"]) == 2
    assert "--from gives the shape" in capsys.readouterr().err
