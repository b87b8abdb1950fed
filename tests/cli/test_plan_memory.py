"""`plan-memory` counts once what models have in common, and says so."""

import copy
from pathlib import Path

import pytest
import torch

from consolidation.release import Registry
from serve_app.cli.main import run
from serve_app.engine.memory import plan_memory
from tests.engine.running import ON_CPU
from tests.engine.test_published import published
from tests.support.checkpoints import tiny_model
from tests.support.mixes import Mix, MixedSource


@pytest.mark.parametrize("shares", [True, False])
def test_what_is_held_once_is_counted_once(
    shares: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tiny_model("mixtral", 1)
    second = copy.deepcopy(first) if shares else tiny_model("mixtral", 2)
    with torch.no_grad():
        for name, tensor in second.state_dict().items():
            if "mlp.gate." in name:
                tensor.add_(1)
    source = MixedSource("any", {"m1": first, "m2": second}, lambda *_: Mix("dense"))
    reader = published(Registry(str(tmp_path), "tiny"), source, first)
    plan = plan_memory(reader, ON_CPU)
    assert (plan.shared_bytes > 0.8 * plan.place_bytes) is shares
    assert run(["plan-memory", "--family", "tiny", "--registry", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert str(plan.backbones_bytes) in out
    assert f"{plan.next_bytes} " in out
    assert "more at most, for one of a next release" in out
    read = reader.manifest.step_bytes
    assert f"step of 8 sequences, 4 for each model, reads {read} bytes" in " ".join(out.split())
    assert ("held once" in out) is shares
    assert all(len(line) <= 80 for line in out.splitlines())
    tight = str(plan.total_bytes + plan.next_bytes - 1)
    asked = ["plan-memory", "--family", "tiny", "--registry", str(tmp_path), "--kv-tokens"]
    assert run([*asked, str(plan.kv_tokens), "--device-memory", tight]) == 0
    out = capsys.readouterr().out
    assert "places for 2 of 2" in out
    assert "no place to spare" in out


def test_a_channel_that_is_not_there_is_named_whatever_releases_begin_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model("mixtral", 1)
    source = MixedSource("any", {"m1": model}, lambda *_: Mix("dense"))
    release = published(Registry(str(tmp_path), "tiny"), source, model).id
    asked = ["plan-memory", "--family", "tiny", "--registry", str(tmp_path), "--channel"]
    assert run([*asked, release[:3]]) == 2
    assert f"has no channel '{release[:3]}'" in capsys.readouterr().err
