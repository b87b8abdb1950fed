"""Copies of models that differ by noise alone, from their checkpoints to a release."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from consolidation.evaluation.methods import check_originals
from consolidation.evaluation.verify import verify
from consolidation.release import Registry
from consolidation.release.stand_ins import stood_in
from consolidation.report.page import render_report
from tests.consolidation.running import Paths, manifest_of, run
from tests.support.checkpoints import write_checkpoint

HEAD = "lm_head.weight"


def reconverted(source: Path, target: Path) -> Path:
    """A copy in which one value in 200 of every matrix is one unit in the last place larger."""
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    for tensor in tensors.values():
        if tensor.dim() == 2:
            tensor.view(-1).view(torch.int16)[::200] += 1
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    root = tmp_path_factory.mktemp("copies")
    first = write_checkpoint(
        root / "first", "mixtral", num_hidden_layers=1, dtype=torch.bfloat16, tokenizer=False
    )
    return {"first": first, "second": reconverted(first, root / "second")}


def test_without_a_budget_a_copy_is_its_own_unless_asked(copies: Paths, tmp_path: Path) -> None:
    manifest = manifest_of(run(tmp_path, copies))
    assert len(manifest.layers[0].slots) + len(manifest.layers[0].residuals) == 8
    assert not list(stood_in(manifest))
    assert manifest.quality["second"].kl == 0


def test_a_copy_with_noise_is_stored_once_where_it_is_asked_for(
    copies: Paths, tmp_path: Path
) -> None:
    outcome = run(tmp_path, copies, noise_floor=True)
    manifest = manifest_of(outcome)
    assert len(manifest.layers[0].slots) == 4
    assert manifest.models["first"].expert_map == manifest.models["second"].expert_map
    digests = [
        {name: d for blob in model.backbone for name, d in blob.tensors.items()}
        for model in manifest.models.values()
    ]
    assert digests[0] == digests[1]
    assert manifest.models["first"].stand_ins == {}
    assert manifest.models["second"].stand_ins[HEAD] == "first"
    (found,) = stood_in(manifest)
    assert (found.model, found.other, found.experts) == ("second", "first", 4)
    assert str(found).startswith(f"4 experts and {found.tensors} tensors of second differ")
    assert str(found).replace("'", "&#39;") in render_report([(manifest, None)])
    # The divergence is measured from the copy as it is on disk.
    assert manifest.quality["first"].kl == 0
    assert 0 < manifest.quality["second"].kl < 1e-3
    registry = Registry(str(tmp_path), "fam")
    assert verify(registry, outcome.release or "") == []
    opened = {name: open_checkpoint(path) for name, path in copies.items()}
    check_originals(manifest, opened)
    with pytest.raises(Refused, match="'first' of the release was not made from"):
        check_originals(manifest, {"first": opened["second"]})


def test_with_a_budget_copies_count_as_equal_unless_they_must_be_exact(
    copies: Paths, tmp_path: Path
) -> None:
    both = frozenset(copies)
    manifest = manifest_of(run(tmp_path / "exact", copies, 2.2, exact=both))
    assert not list(stood_in(manifest))
    manifest = manifest_of(run(tmp_path / "one", copies, 1.1, exact=frozenset({"second"})))
    assert [(found.model, found.other) for found in stood_in(manifest)] == [("first", "second")]
    assert manifest.quality["second"].kl == 0
    assert {slot.format for slot in manifest.layers[0].slots} == {"dense"}
