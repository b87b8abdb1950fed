"""Fine-tunes that leave most weights as they were: found, and given back to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.verify import verify
from consolidation.pipeline import Consolidated
from consolidation.release import Registry, ReleaseReader
from representation.formats import DENSE, Sparse
from tests.consolidation.running import manifest_of, run
from tests.support.checkpoints import write_checkpoint

SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
PART = 0.1


def sparse_tune(source: Path, target: Path, seed: int, part: float = PART) -> Path:
    """A copy in which this part of the experts' weights is new, as bfloat16 has them."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(source / "model.safetensors")
    for name in sorted(tensors):
        if ".experts." in name:
            old = tensors[name]
            is_new = torch.rand(old.shape, generator=generator) < part
            moved = old.float() * (1 + 0.05 * torch.randn(old.shape, generator=generator))
            tensors[name] = torch.where(is_new, moved.to(old.dtype), old)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration text that is shorter than the default."""
    path = tmp_path_factory.mktemp("text") / "short.txt"
    lines = (f"Line {n} says that {n} times {n} makes {n * n}." for n in range(30))
    path.write_text("\n\n".join(lines))
    return path


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sparse")
    base = write_checkpoint(root / "base", "mixtral", dtype=torch.bfloat16, **SIZES)
    return {
        "base": base,
        "one": sparse_tune(base, root / "one", 1),
        "two": sparse_tune(base, root / "two", 2),
    }


def assert_to_the_bit(outcome: Consolidated, root: Path, models: dict[str, Path]) -> None:
    manifest = manifest_of(outcome)
    registry = Registry(str(root), "fam")
    reader = ReleaseReader(registry, manifest.id)
    for name, path in models.items():
        assert manifest.quality[name].kl == 0
        for layer, source in enumerate(open_checkpoint(path).experts):
            for index in range(source.num_experts):
                found = reader.expert(name, layer, index)
                for parameter, tensor in source.read(index).items():
                    assert torch.equal(found[parameter], tensor.float()), (name, layer, index)
    assert not outcome.plan.approximated
    assert verify(registry, manifest.id) == []


def residual_bytes(outcome: Consolidated) -> list[float]:
    """Of each residual, over the bytes of an expert as it is."""
    found = []
    for layer in manifest_of(outcome).layers:
        whole = DENSE.file_bytes(layer.shape, torch.bfloat16, residual=False)
        assert all(isinstance(part.parsed, Sparse) for part in layer.residuals)
        found += [part.bytes / whole for part in layer.residuals]
    return found


def test_without_a_budget_near_experts_take_little_and_lose_nothing(
    family: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run(tmp_path / "r", family)
    parts = residual_bytes(outcome)
    assert len(parts) == 2 * 4 * 2, "each expert of the two fine-tunes"
    assert max(parts) < 0.25
    manifest = manifest_of(outcome)
    assert manifest.expert_bytes_after < 1.5 * manifest.expert_bytes_one_model
    assert manifest.expert_bytes_after == outcome.plan.expert_bytes_after
    assert_to_the_bit(outcome, tmp_path / "r", family)


def test_a_budget_that_is_enough_for_that_loses_nothing_either(
    family: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"base": family["base"], "calibration": ((None, text),)}
    outcome = run(tmp_path / "r", family, budget=1.5, **given)
    assert max(residual_bytes(outcome)) < 0.25
    assert_to_the_bit(outcome, tmp_path / "r", family)


def test_a_model_that_must_be_exact_may_be_sparse(
    family: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"exact": frozenset({"one"}), "calibration": ((None, text),)}
    outcome = run(tmp_path / "r", family, budget=1.25, **given)
    manifest = manifest_of(outcome)
    assert manifest.quality["one"].kl == 0
    assert "one" not in outcome.plan.approximated
    assert manifest.expert_bytes_after <= 1.25 * manifest.expert_bytes_one_model


def test_a_release_is_extended_by_what_differs_from_its_slots(
    family: dict[str, Path], tmp_path: Path
) -> None:
    first = run(tmp_path / "r", {"base": family["base"]})
    outcome = run(tmp_path / "r", {"one": family["one"]}, extend=manifest_of(first).id)
    assert max(residual_bytes(outcome)) < 0.25
    assert_to_the_bit(outcome, tmp_path / "r", {"one": family["one"]})


def test_the_same_recipe_gives_the_same_digests(family: dict[str, Path], tmp_path: Path) -> None:
    one, other = (manifest_of(run(tmp_path / name, family)).id for name in ("r", "s"))
    assert one == other
