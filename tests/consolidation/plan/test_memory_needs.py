"""What stages hold, from headers: the formulas, and refusal before anything is read."""

from pathlib import Path

import pytest
import torch

from consolidation.checkpoints.checkpoint import ModelFiles
from consolidation.checkpoints.family import open_family
from consolidation.errors import Refused
from consolidation.pipeline import Recipe, consolidate
from consolidation.plan import memory_needs as memory_needs_module
from consolidation.plan.memory_needs import GIB, Free, memory_needs
from consolidation.release import Registry
from consolidation.run.executor import LocalExecutor
from consolidation.sources.local_sources import local_models
from serve_app.bench.weights.random_checkpoint import write_base
from serve_app.bench.weights.shapes import SHAPES
from serve_app.cli.main import run
from tests.consolidation.running import recipe_of

EXPERT_BYTES = 3 * 128 * 64 * 2
CONFIG = SHAPES["olmoe-1b-7b"].config(
    2,
    vocab_size=320,
    hidden_size=128,
    intermediate_size=64,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_experts=8,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("a", "b")):
        write_base(root / name, CONFIG, seed)
    return {name: root / name for name in ("a", "b")}


def _needs(models: dict[str, Path], *, is_lossy: bool) -> dict[str, int]:
    family = open_family(
        Registry("memory://needs", "f"),
        {name: ModelFiles(path) for name, path in models.items()},
        base=None,
        extend=None,
        remove=(),
        opened=lambda _: None,
    )
    return {need.stage: need.num_bytes for need in memory_needs(family, is_lossy=is_lossy)}


def test_running_takes_two_layers_of_a_model_and_comparing_a_layer_of_all(
    models: dict[str, Path],
) -> None:
    attention = (4 * 128 * 128 + 2 * 128) * 2
    layer = 8 * EXPERT_BYTES + attention + (8 * 128 + 2 * 128) * 2
    found = _needs(models, is_lossy=True)
    assert found["calibrate"] == found["validate"] == 2 * layer + 3 * GIB // 2
    assert found["compare"] == found["build"] == 2.5 * 2 * 8 * EXPERT_BYTES + GIB
    assert list(_needs(models, is_lossy=False)) == ["build", "validate"]


def test_a_stage_takes_what_one_of_its_tasks_does_if_that_is_more(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_needs_module, "compare_bytes", lambda shape, num: num * 4 * GIB)
    found = _needs(models, is_lossy=True)
    assert (found["compare"], found["build"]) == (8 * GIB, 2.5 * 2 * 8 * EXPERT_BYTES + GIB)


def test_what_cannot_fit_is_refused_before_a_tensor_is_read(
    models: dict[str, Path], tmp_path: Path
) -> None:
    recipe = Recipe("f", str(tmp_path / "r"), local_models(models), expert_budget=1.0)
    with pytest.raises(Refused, match=r"calibrate needs 1.50 GiB of memory, and 1.00 GiB are free"):
        consolidate(recipe, executor=LocalExecutor(), free=Free(GIB))
    assert not (tmp_path / "r").exists()


def test_what_cannot_fit_a_card_is_refused_too(models: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "r", models, 1.0, device=torch.device("cuda"))
    words = r"calibrate needs 2.75 GiB of memory on the device \(cuda\), and 1.00 GiB are free"
    with pytest.raises(Refused, match=words):
        consolidate(recipe, executor=LocalExecutor(), free=Free(device=GIB))
    assert not (tmp_path / "r").exists()


def test_the_plan_is_printed_by_stage(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [option for name, path in models.items() for option in ("--model", f"{name}={path}")]
    place = ["--family", "f", "--registry", str(tmp_path)]
    assert run(["plan-memory", "--consolidation", *place, *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split()[0] for line in lines if line and line[0] != " "]
    assert words[:6] == ["stage", "calibrate", "compare", "build", "validate", "free"]
    assert run(["plan-memory", *place, *given]) == 2
    assert run(["plan-memory", "--consolidation", *place]) == 2
