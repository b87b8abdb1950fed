"""What a recipe may wish for beside a budget: exactness, weights, a divergence; and extending."""

from pathlib import Path

import pytest
import torch

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.checkpoints.scan import ScanTask, scan
from consolidation.errors import Refused
from consolidation.evaluation.gates import QualityLimits
from consolidation.evaluation.verify import verify
from consolidation.pipeline import Consolidated, Recipe
from consolidation.plan.values import Plan
from consolidation.release import Part, Registry, ReleaseReader
from consolidation.sources.local_sources import local_models
from tests.consolidation.families import write_family
from tests.consolidation.planting import Planted, Same, Tuned, Unrelated, plant
from tests.consolidation.running import Paths, consolidated, files, manifest_of, pick, run


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return write_family(tmp_path_factory.mktemp("small"), num_hidden_layers=1)


def parts_of(outcome: Consolidated, model: str) -> list[list[tuple[Part, ...]]]:
    """Slot and residuals of every expert of a model, layer by layer."""
    manifest = manifest_of(outcome)
    held = manifest.models[model]
    return [
        [
            (layer.slots[slot], *(layer.residuals[r] for r in held.residuals(number, index)))
            for index, slot in enumerate(held.expert_map[number])
        ]
        for number, layer in enumerate(manifest.layers)
    ]


def test_an_exact_model_loses_nothing_and_others_pay(family: Paths, tmp_path: Path) -> None:
    models = pick(family, "one", "two")
    outcome = run(tmp_path, models, 1.2, exact=frozenset({"one"}))
    manifest = manifest_of(outcome)
    assert manifest.quality["one"].kl == 0
    assert manifest.quality["two"].kl > 0
    assert outcome.plan.approximated == {"two"}
    assert manifest.expert_bytes_after <= 1.2 * manifest.expert_bytes_one_model
    assert {part.format for layer in parts_of(outcome, "one") for (part,) in layer} == {"dense"}
    with pytest.raises(Refused, match=r"a budget of 1\.[01]"):
        run(tmp_path, models, 0.9, exact=frozenset({"one"}))


@pytest.mark.parametrize(("limit", "budget"), [(2, 0.6), (1, None)])
def test_layers_have_no_more_formats_than_wished(
    limit: int, budget: float | None, small: Paths, tmp_path: Path
) -> None:
    manifest = manifest_of(run(tmp_path, small, budget, max_formats=limit))
    for layer in manifest.layers:
        assert 1 <= len({part.format for part in (*layer.slots, *layer.residuals)}) <= limit
    if budget is not None:
        assert manifest.expert_bytes_after <= budget * manifest.expert_bytes_one_model
    assert manifest.provenance["max_formats"] == limit


def test_a_release_says_how_much_of_their_effect_models_keep(
    small: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, base = pick(small, "one", "two"), small["base"]
    found = manifest_of(run(tmp_path / "r", models, 0.6, base=base)).quality["one"]
    assert found.kl_base is not None
    assert 0 < found.kl < found.kl_base
    assert found.retained == 1 - found.kl / found.kl_base
    assert found.kl_99 is not None
    assert found.kl < found.kl_99
    with monkeypatch.context() as patched:  # other sizes of the same models find it
        patched.setattr("consolidation.trials.measure_effect", None)
        larger = manifest_of(run(tmp_path / "r", models, 0.8, base=base)).quality["one"]
    assert (larger.kl_base, larger.kl < found.kl) == (found.kl_base, True)
    alone = manifest_of(run(tmp_path / "without", models, 0.6)).quality["one"]
    assert (alone.kl_base, alone.retained) == (None, None)
    with pytest.raises(Refused, match=r"'one' keeps .* % of its effect on the calibration text"):
        run(tmp_path / "r", models, 0.6, base=base, limits=QualityLimits(min_retained=1.0))
    exact = run(tmp_path / "r", models, base=base, limits=QualityLimits(min_retained=1.0))
    assert manifest_of(exact).quality["one"].kl == 0


def test_a_release_that_is_extended_keeps_its_formats_within_the_limit(
    small: Paths, tmp_path: Path
) -> None:
    before = run(tmp_path, pick(small, "base", "one"), 0.6, max_formats=2)
    with pytest.raises(Refused, match=r"keeps parts in \d formats \(.*\); at most 1 are allowed"):
        run(tmp_path, pick(small, "two"), 1.0, extend=before.release, max_formats=1)
    after = manifest_of(
        run(tmp_path, pick(small, "two"), 1.0, extend=before.release, max_formats=4)
    )
    for layer in after.layers:
        assert len({part.format for part in (*layer.slots, *layer.residuals)}) <= 4


def test_neurons_of_an_exact_model_stay_where_they_are(tmp_path: Path) -> None:
    planted: dict[str, tuple[Planted, ...]] = {
        "moved": (Same(0, 1), Same(1, 2), Same(3, 3), Same(2, 4), Same(4, 5), Tuned(5, 4, 6)),
        "plain": (Same(0), Same(1), Same(2), Same(3), Same(4), Unrelated(7)),
    }
    paths = plant(tmp_path, "olmoe", planted)
    outcome = run(
        tmp_path / "r",
        pick(paths, *planted),
        1.4,
        base=paths["base"],
        exact=frozenset({"moved"}),
    )
    (source,) = open_checkpoint(paths["moved"]).experts
    (parts,) = parts_of(outcome, "moved")
    assert [part.digest for (part,) in parts] == list(scan(ScanTask("one", source))["digests"])
    # The other's are those, put in their order.
    (others,) = parts_of(outcome, "plain")
    assert [part for (part,) in others[:5]] == [
        part for (part,) in (parts[0], parts[1], parts[3], parts[2], parts[4])
    ]
    assert manifest_of(outcome).quality["moved"].kl == 0
    assert manifest_of(outcome).quality["plain"].kl < 1e-9


def test_a_model_that_counts_more_loses_less(family: Paths, tmp_path: Path) -> None:
    models = pick(family, "one", "two")
    even = run(tmp_path / "even", models, 0.6)
    uneven = run(tmp_path / "uneven", models, 0.6, weights={"one": 50.0})
    kl = manifest_of(even).quality["one"].kl
    assert manifest_of(uneven).quality["one"].kl < 0.7 * kl
    assert uneven.plan.error > even.plan.error
    assert manifest_of(uneven).provenance["weights"] == {"one": 50.0}


@pytest.mark.parametrize("calibrated", [False, True], ids=["weights", "activations"])
def test_a_target_is_reached_with_fewer_bytes_than_everything(
    small: Paths, tmp_path: Path, calibrated: bool
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 30)
    target = 1e-3
    plans: list[Plan] = []
    recipe = Recipe(
        "fam",
        str(tmp_path / "r"),
        local_models(pick(small, "one", "two")),
        target_kl=target,
        calibration=((None, text),) if calibrated else (),
    )
    outcome = consolidated(recipe, on_plan=plans.append)
    manifest = manifest_of(outcome)
    mean = sum(quality.kl for quality in manifest.quality.values()) / 2
    assert 0.1 * target < mean <= target
    assert outcome.plan in plans
    assert 1 <= len(plans) <= 6
    assert all(
        (quality.predicted_kl is not None) == calibrated for quality in manifest.quality.values()
    )
    dry = consolidated(recipe, dry_run=True)
    assert dry.plan == plans[0]


def test_a_target_that_only_everything_reaches_loses_nothing(small: Paths, tmp_path: Path) -> None:
    manifest = manifest_of(run(tmp_path, pick(small, "one"), target_kl=1e-30))
    assert all(quality.kl == 0 for quality in manifest.quality.values())


def test_a_dry_run_with_calibration_writes_nothing(family: Paths, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 10)
    recipe = Recipe(
        "fam",
        str(tmp_path / "r"),
        local_models(pick(family, "one", "two")),
        expert_budget=1.0,
        calibration=((None, text),),
    )
    plan = consolidated(recipe, dry_run=True).plan
    assert not (tmp_path / "r").exists()
    assert plan.predicted_kl is not None
    assert plan.predicted_kl.keys() == {"one", "two"}
    assert all(value > 0 for value in plan.predicted_kl.values())
    assert plan == consolidated(recipe).plan


def test_residuals_of_a_release_that_is_extended_are_kept(family: Paths, tmp_path: Path) -> None:
    before = run(tmp_path, pick(family, "one", "two"), 0.7)
    there = files(tmp_path)
    after = run(tmp_path, pick(family, "frozen"), 1.2, extend=before.release)
    old, new = manifest_of(before), manifest_of(after)
    assert any(layer.residuals for layer in old.layers)
    for name in ("one", "two"):
        assert parts_of(after, name) == parts_of(before, name)
        assert new.quality[name] == old.quality[name]
    assert new.expert_bytes_after <= 1.2 * new.expert_bytes_one_model
    assert new.expert_bytes_after == after.plan.expert_bytes_after
    registry = Registry(str(tmp_path), "fam")
    assert verify(registry, new.id) == []
    alone = run(tmp_path, {}, extend=after.release, remove=("one", "frozen"))
    assert parts_of(alone, "two") == parts_of(before, "two")
    used = {part for layer in parts_of(alone, "two") for parts in layer for part in parts}
    for layer in manifest_of(alone).layers:
        assert {*layer.slots, *layer.residuals} <= used
    assert verify(registry, alone.release or "") == []
    assert there <= files(tmp_path)


def test_a_model_whose_experts_are_all_there_adds_no_slot_under_a_budget(
    family: Paths, tmp_path: Path
) -> None:
    before = run(tmp_path, pick(family, "one"), None)
    after = run(tmp_path, {"again": family["one"]}, 1.5, extend=before.release)
    assert parts_of(after, "again") == parts_of(before, "one")
    assert manifest_of(after).quality["again"].kl == 0


def test_what_a_kept_slot_lacks_is_made_up_for_by_residuals(family: Paths, tmp_path: Path) -> None:
    before = run(tmp_path, pick(family, "base"), 0.4)
    outcome = run(tmp_path, pick(family, "one"), 0.62, extend=before.release)
    reader = ReleaseReader(Registry(str(tmp_path), "fam"), outcome.release or "")
    kept = {part for layer in manifest_of(before).layers for part in layer.slots}
    experts = open_checkpoint(family["one"]).experts
    shared = 0
    for number, layer in enumerate(parts_of(outcome, "one")):
        for index, (slot, *residuals) in enumerate(layer):
            wanted = experts[number].read(index)
            found = reader.expert("one", number, index)
            for name, tensor in wanted.items():
                error = (found[name] - tensor).norm() / tensor.norm()
                assert float(error) < 0.1
            if slot in kept and residuals:
                shared += 1
    assert shared > 0
    assert torch.isfinite(torch.tensor(manifest_of(outcome).quality["one"].kl))
