"""What is said of one matrix of an expert alone: found, stored and served for that matrix."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.compare.menu import FileSizes
from consolidation.compare.part_form import AS_IT_IS, PartForm
from consolidation.evaluation.verify import verify
from consolidation.release import Manifest, Registry
from representation.formats import LowRank
from tests.consolidation.families import tune
from tests.consolidation.running import Paths, manifest_of, pick, run
from tests.support.checkpoints import write_checkpoint

WIDTH = 128
MAPS = 300
"""Bytes of the maps, and more: less than anything else that could be added."""


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A base, and a model of it whose down projections all have an edit of rank 1."""
    root = tmp_path_factory.mktemp("edited")
    base, target = root / "base", root / "edit"
    write_checkpoint(
        base,
        "mixtral",
        dtype=torch.bfloat16,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
    )
    target.mkdir()
    for path in base.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(target / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in sorted(tensors):
        if ".experts." in name and ".w2." in name:
            left, right = torch.randn(2, WIDTH, generator=generator) / WIDTH**0.5
            edit = 0.3 * torch.outer(left, right) * tensors[name].float().norm()
            tensors[name] = (tensors[name].float() + edit).to(torch.bfloat16)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return {"base": base, "edit": target}


def test_an_edit_of_rank_1_in_one_matrix_takes_a_hundredth_of_an_expert(
    edited: Paths, tmp_path: Path
) -> None:
    (source,) = open_checkpoint(edited["base"]).experts
    sizes = FileSizes(source.shape, torch.bfloat16)
    own = PartForm(LowRank(1), ("down_proj",))
    enough = 4 * (sizes.slot(AS_IT_IS) + sizes.residual(own)) + MAPS
    wish = {"base": edited["base"], "exact": frozenset({"base"}), "expert_bytes": enough}
    manifest = manifest_of(run(tmp_path, edited, None, **wish))
    (layer,) = manifest.layers
    whole = {slot.bytes for slot in layer.slots if slot.format == "dense"}
    held = [
        layer.residuals[index]
        for model in manifest.models.values()
        for expert in range(4)
        for index in model.residuals(0, expert)
    ]
    assert len(whole) == 1
    assert [(part.format, part.matrices) for part in held] == [("rank-1", ("down_proj",))] * 4
    assert max(part.bytes for part in held) < 0.01 * min(whole)
    effect = manifest.quality["edit"].kl_base
    assert effect is not None
    assert max(one.kl for one in manifest.quality.values()) < 0.001 * effect


def test_parts_of_one_matrix_come_back_as_they_were_planned(edited: Paths, tmp_path: Path) -> None:
    outcome = run(tmp_path, edited, 0.6, base=edited["base"])
    manifest = manifest_of(outcome)
    (layer,) = manifest.layers
    partial = [part for part in layer.residuals if part.matrices]
    assert {part.matrices for part in partial} <= {("down_proj",), ("gate_up_proj",)}
    assert partial
    assert verify(Registry(str(tmp_path), "fam"), manifest.id) == []
    assert manifest.expert_bytes_after == outcome.plan.expert_bytes_after


@pytest.fixture(scope="module")
def parted(edited: Paths, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The base, and two models of it that differ in all weights."""
    base, root = edited["base"], tmp_path_factory.mktemp("parted")
    models = {
        name: tune(base, root / name, seed, experts=0.02) for seed, name in [(1, "a"), (2, "b")]
    }
    return {"base": base, **models}


def test_a_slot_may_be_in_parts_and_stays_so_when_its_release_is_extended(
    parted: Paths, tmp_path: Path
) -> None:
    outcome = run(tmp_path, pick(parted, "base", "a"), 0.35, base=parted["base"])
    manifest = manifest_of(outcome)
    (layer,) = manifest.layers
    (first,) = [place for place, slot in enumerate(layer.slots) if slot.others]
    parts = layer.slot_parts(first)
    labels = [f"{part.format}@{','.join(part.matrices)}" for part in parts]
    assert {label.partition("@")[2] for label in labels} == {"gate_up_proj", "down_proj"}
    assert " / ".join(labels) in outcome.plan.formats()
    assert layer.num_slots == len(layer.slots) - 1 == outcome.plan.num_slots == 4
    assert manifest.expert_bytes_after == outcome.plan.expert_bytes_after
    assert manifest.step_bytes == outcome.plan.step_bytes
    more = manifest_of(
        run(tmp_path, pick(parted, "b"), 0.75, base=parted["base"], extend=manifest.id)
    )
    (layer,) = more.layers
    (first,) = [place for place, slot in enumerate(layer.slots) if slot.others]
    assert [part.digest for part in layer.slot_parts(first)] == [part.digest for part in parts]
    for found in (manifest, more):
        assert verify(Registry(str(tmp_path), "fam"), found.id) == []


def test_a_slot_that_lacks_a_matrix_is_refused(parted: Paths, tmp_path: Path) -> None:
    manifest = manifest_of(run(tmp_path, pick(parted, "base"), 0.35))
    (layer,) = manifest.layers
    half = layer.slots[0].model_copy(update={"matrices": ("down_proj",), "others": ()})
    halves = layer.model_copy(update={"slots": (half, *layer.slots[1:])})
    with pytest.raises(ValidationError, match="slot 0 has parts for down_proj, not gate_up_"):
        Manifest.model_validate({**dict(manifest), "layers": (halves,)})
