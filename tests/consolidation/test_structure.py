"""Families with planted structure: the planner finds it, and builds what it found."""

from pathlib import Path

import pytest
import torch

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.verify import verify
from consolidation.pipeline import Consolidated
from consolidation.release import Registry
from representation.formats import DENSE, ExpertShape, LowRank, format_of
from tests.consolidation.planting import SIZES, Planted, Same, Tuned, Unrelated, plant
from tests.consolidation.running import manifest_of, run

MODELS: dict[str, tuple[Planted, ...]] = {
    "plain": (Same(0), Tuned(1, 4, 13), Same(2), Same(3), Same(4), Same(5)),
    "tuned": (Same(0), Tuned(1, 4, 11), Same(2), Same(3), Unrelated(14), Tuned(5, 8, 15)),
    "moved": (Same(0), Tuned(1, 3, 21), Same(3, 22), Same(2, 23), Same(4), Same(5, 25)),
}
RANKS = {("plain", 1): 4, ("tuned", 1): 4, ("tuned", 5): 8, ("moved", 1): 4}
"""Planted ranks, or the next that there is."""
NUM_SLOTS = 7
"""One for each of the base's experts, and one that is related to none."""
SLACK = 1000
"""Maps; less than one more factor of one matrix takes."""


def shape_of(path: Path) -> ExpertShape:
    return open_checkpoint(path).experts[0].shape


def enough(path: Path) -> int:
    """Bytes that what was planted takes."""
    shape = shape_of(path)
    slots = NUM_SLOTS * DENSE.file_bytes(shape, torch.float32, residual=False)
    residuals = [
        LowRank(rank).file_bytes(shape, torch.float32, residual=True) for rank in RANKS.values()
    ]
    return slots + sum(residuals) + SLACK


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outcome")


CASES = [*((architecture, True) for architecture in sorted(SIZES)), ("gpt_oss", False)]
"""Architectures, and whether there is text to calibrate with."""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def outcome(request: pytest.FixtureRequest, root: Path) -> Consolidated:
    architecture, calibrated = request.param
    planted = plant(root / f"{architecture}-{calibrated}", architecture, MODELS)
    text = root / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    return run(
        root / "r",
        {name: planted[name] for name in MODELS},
        base=planted["base"],
        expert_bytes=enough(planted["base"]),
        calibration=((None, text),) if calibrated else (),
    )


def parts(outcome: Consolidated, model: str, index: int) -> tuple[int, list[str]]:
    """Slot of an expert, and the formats of its residuals."""
    found = manifest_of(outcome)
    held = found.models[model]
    residuals = [found.layers[0].residuals[r].format for r in held.residuals(0, index)]
    return held.expert_map[0][index], residuals


def test_identical_experts_share_a_slot_as_it_is(outcome: Consolidated) -> None:
    assert {parts(outcome, name, 0)[0] for name in MODELS} == {parts(outcome, "plain", 0)[0]}
    for name, planted_there in MODELS.items():
        for index, kind in enumerate(planted_there):
            slot, residuals = parts(outcome, name, index)
            if isinstance(kind, Same):
                assert residuals == []
                same = [
                    parts(outcome, other, place)[0]
                    for other, there in MODELS.items()
                    for place, one in enumerate(there)
                    if isinstance(one, Same | Tuned) and one.index == kind.index
                ]
                assert set(same) == {slot}
    assert all(part.format == "dense" for part in manifest_of(outcome).layers[0].slots)
    assert len(manifest_of(outcome).layers[0].slots) == NUM_SLOTS


def test_differences_of_low_rank_are_found_at_their_rank(outcome: Consolidated) -> None:
    for (name, index), rank in RANKS.items():
        _, (label,) = parts(outcome, name, index)
        assert format_of(label) == LowRank(rank)


def test_an_expert_that_is_related_to_none_has_its_own_slot(outcome: Consolidated) -> None:
    slot, residuals = parts(outcome, "tuned", 4)
    assert residuals == []
    users = [
        (name, index)
        for name, held in manifest_of(outcome).models.items()
        for index, other in enumerate(held.expert_map[0])
        if other == slot
    ]
    assert users == [("tuned", 4)]


def test_what_was_found_is_what_the_models_were(outcome: Consolidated, root: Path) -> None:
    manifest = manifest_of(outcome)
    assert manifest.expert_bytes_after <= manifest.provenance["bytes"]
    assert manifest.expert_bytes_after == outcome.plan.expert_bytes_after
    assert all(quality.kl < 1e-9 for quality in manifest.quality.values())
    assert outcome.plan.approximated == set(MODELS)
    assert verify(Registry(str(root / "r"), "fam"), manifest.id) == []
