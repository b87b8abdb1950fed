import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from consolidation.errors import Refused, RunFailed
from consolidation.evaluation.gates import QualityLimits
from consolidation.evaluation.verify import verify
from consolidation.pipeline import Consolidated
from consolidation.plan.values import Plan
from consolidation.release import Damaged, Registry, ReleaseReader, expert_bytes
from consolidation.run.executor import Progress
from tests.consolidation.families import tune, write_family
from tests.consolidation.running import (
    Paths,
    consolidated,
    files,
    manifest_of,
    pick,
    recipe_of,
    run,
    run_whole,
)
from tests.support.checkpoints import ARCHITECTURES, loaded, write_checkpoint
from tests.support.whole_models import assemble


def test_without_a_budget_every_model_comes_back_exactly(family: Paths, tmp_path: Path) -> None:
    outcome = run(tmp_path, family, channel="stable")
    manifest, registry = manifest_of(outcome), Registry(str(tmp_path), "fam")
    assert outcome.release == manifest.id
    channel = registry.channel("stable")
    assert channel is not None
    assert channel.release == manifest.id
    # `frozen` has its base's experts: three models' worth of slots for four models.
    assert [len(layer.slots) for layer in manifest.layers] == [12, 12]
    assert manifest.models["frozen"].expert_map == manifest.models["base"].expert_map
    assert manifest.expert_bytes_before == 4 * manifest.expert_bytes_one_model
    assert manifest.expert_bytes_after == expert_bytes(manifest.layers, manifest.models)
    assert all(blob.tensors for model in manifest.models.values() for blob in model.backbone)
    reader = ReleaseReader(registry, manifest.id)
    for name, path in family.items():
        assert manifest.quality[name].kl == 0
        found = assemble(reader, name).state_dict()
        expected = loaded(path).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert verify(registry, manifest.id) == []
    assert [path.name for path in (tmp_path / "fam/work").iterdir()] == ["studies"]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_goes_through_a_merging_release(
    architecture: str, tmp_path: Path
) -> None:
    models = pick(write_family(tmp_path, architecture), "one", "two")
    manifest = manifest_of(run(f"memory://{tmp_path.name}", models, 1.6))
    assert manifest.expert_bytes_after <= 1.6 * manifest.expert_bytes_one_model
    assert all(0 < quality.kl < 5 for quality in manifest.quality.values())
    assert verify(Registry(f"memory://{tmp_path.name}", "fam"), manifest.id) == []


def test_the_same_recipe_gives_the_same_release(tmp_path: Path) -> None:
    models = pick(write_family(tmp_path / "f", num_hidden_layers=1), "two", "one")
    first = run_whole(tmp_path / "a", models, 1.5)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        second = run_whole(tmp_path / "b", dict(reversed(models.items())), 1.5)
    finally:
        torch.set_num_threads(before)
    assert first.release == second.release
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert str(tmp_path) not in manifest_of(first).to_bytes().decode()


def test_a_dry_run_plans_the_same_and_writes_nothing(family: Paths, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, pick(family, "one", "two"), 1.5)
    seen: list[Progress] = []
    outcome = consolidated(recipe, progress=seen.append, dry_run=True)
    assert outcome.release is None
    assert list(tmp_path.iterdir()) == []
    assert outcome.plan == run(tmp_path, pick(family, "one", "two"), 1.5).plan
    assert {p.stage for p in seen} == {"open", "noise floor", "scan", "origins", "compare", "plan"}


def test_a_budget_below_the_fewest_bits_is_refused_with_the_least_there_is(
    family: Paths, tmp_path: Path
) -> None:
    models = pick(family, "one", "two")
    with pytest.raises(Refused, match=r"budget of 0\.0500 .* cannot be met: .*") as refused:
        run(tmp_path, models, 0.05)
    assert {path.split("/")[1] for path in files(tmp_path)} == {"work"}
    least = float(str(refused.value).split()[-1])
    assert manifest_of(run(tmp_path, models, least)).quality["one"].kl > 0
    with pytest.raises(Refused, match=f"a budget of {least:.4f}"):
        run(tmp_path, models, least - 0.0002)


def test_kl_and_perplexity_are_what_an_independent_computation_gives(
    family: Paths, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 3)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "two and two is", "completion": " four"}) + "\n")
    calibration = ((None, text), ("one", pairs))
    outcome = run(tmp_path / "r", pick(family, "one", "two"), 1.2, calibration=calibration)
    reader = ReleaseReader(Registry(str(tmp_path / "r"), "fam"), outcome.release or "")
    original: Any = AutoModelForCausalLM.from_pretrained(family["one"], dtype=torch.float32)
    merged = assemble(reader, "one")
    tokenizer: Any = AutoTokenizer.from_pretrained(family["one"])
    prompt = [1, *tokenizer.encode("two and two is", add_special_tokens=False)]
    answer = tokenizer.encode(" four", add_special_tokens=False)
    running = [1, *tokenizer.encode(text.read_text(), add_special_tokens=False)]
    kl, nll, tokens = 0.0, [0.0, 0.0], 0
    for ids, first in ((running, 1), (prompt + answer, len(prompt))):
        with torch.no_grad():
            p, q = (
                model(torch.tensor([ids])).logits[0, first - 1 : -1].double().log_softmax(-1)
                for model in (original, merged)
            )
        kl += float((p.exp() * (p - q)).sum())
        for side, scores in enumerate((p, q)):
            nll[side] -= float(scores[range(len(ids) - first), ids[first:]].sum())
        tokens += len(ids) - first
    quality = manifest_of(outcome).quality["one"]
    assert quality.tokens == tokens
    assert math.isclose(quality.kl, kl / tokens, rel_tol=1e-4, abs_tol=1e-11)
    assert math.isclose(quality.perplexity_original, math.exp(nll[0] / tokens), rel_tol=1e-4)
    assert math.isclose(quality.perplexity_release, math.exp(nll[1] / tokens), rel_tol=1e-4)


def test_too_large_a_divergence_publishes_nothing_and_names_the_models(
    family: Paths, tmp_path: Path
) -> None:
    first = run(tmp_path, pick(family, "one", "two"), channel="stable").release
    each = r"model '(one|two)' is \S+ nats .* more than the 0.000000000001 allowed"
    told = rf"({each}\n){{2}}nothing was published"
    with pytest.raises(Refused, match=told):
        run(
            tmp_path,
            pick(family, "one", "two"),
            1.2,
            channel="stable",
            limits=QualityLimits(max_kl=1e-12),
        )
    registry = Registry(str(tmp_path), "fam")
    assert [summary.id for summary in registry.releases()] == [first]
    channel = registry.channel("stable")
    assert channel is not None
    assert channel.release == first


def test_extending_writes_only_what_is_new(family: Paths, tmp_path: Path) -> None:
    before = run(tmp_path, pick(family, "base", "one"), 1.5)
    there = files(tmp_path)
    after = run(tmp_path, pick(family, "two"), extend=before.release)
    old, new = manifest_of(before), manifest_of(after)
    written = {f for f in files(tmp_path) - there if "blobs" in f}
    own = {b.digest for b in new.models["two"].backbone}
    own |= {
        layer.slots[s].digest
        for layer, row in zip(new.layers, new.models["two"].expert_map, strict=True)
        for s in row
    }
    assert {Path(f).stem for f in written} <= own
    for layer, extended in zip(old.layers, new.layers, strict=True):
        assert extended.slots[: len(layer.slots)] == layer.slots
    for name in ("base", "one"):
        assert new.models[name] == old.models[name]
        assert new.quality[name] == old.quality[name]
    assert new.quality["two"].kl == 0
    assert verify(Registry(str(tmp_path), "fam"), new.id) == []


def test_extending_within_a_budget_uses_the_slots_there_are(family: Paths, tmp_path: Path) -> None:
    before = run(tmp_path, pick(family, "base", "one"))
    old = manifest_of(before)
    after = manifest_of(run(tmp_path, pick(family, "two"), 2.3, extend=before.release))
    assert after.expert_bytes_after <= 2.3 * after.expert_bytes_one_model
    assert after.quality["two"].kl > 0
    for new, there in zip(after.layers, old.layers, strict=True):
        assert new.slots == there.slots
        assert new.residuals
    # A tuned expert is nearest to the same expert of its base or of another model tuned from it.
    every = manifest_of(run(tmp_path, pick(family, "two"), 2.07, extend=before.release))
    for manifest in (after, every):
        for layer, row in enumerate(manifest.models["two"].expert_map):
            for index, slot in enumerate(row):
                assert slot in {old.models[n].expert_map[layer][index] for n in ("base", "one")}
    assert after.quality["two"].kl < every.quality["two"].kl
    with pytest.raises(Refused, match=r"cannot be met: .* need \d+ bytes, a budget of 2\.0"):
        run(tmp_path, pick(family, "two"), 1.0, extend=before.release)
    assert verify(Registry(str(tmp_path), "fam"), after.id) == []


def test_removing_a_model_drops_the_slots_only_it_used(family: Paths, tmp_path: Path) -> None:
    before = run(tmp_path, pick(family, "base", "one", "frozen"))
    after = run(tmp_path, {}, extend=before.release, remove=("one",))
    alone = run(tmp_path, pick(family, "base", "frozen"))
    new = manifest_of(after)
    assert sorted(new.models) == ["base", "frozen"]
    assert new.layers == manifest_of(alone).layers
    assert verify(Registry(str(tmp_path), "fam"), new.id) == []


def test_what_is_left_after_removing_counts_against_the_budget(
    family: Paths, tmp_path: Path
) -> None:
    before = run(tmp_path, pick(family, "base", "one"), 1.5)
    wanted = {"extend": before.release, "remove": ("base",)}
    after = run(tmp_path, {}, 1.5, **wanted)
    assert after.plan.expert_bytes_after == manifest_of(after).expert_bytes_after
    with pytest.raises(Refused, match="cannot be met"):
        run(tmp_path, {}, 0.5, **wanted)


def test_a_model_is_replaced_by_giving_it_again(family: Paths, tmp_path: Path) -> None:
    before = run(tmp_path, pick(family, "base", "one"))
    after = manifest_of(run(tmp_path, {"one": family["two"]}, extend=before.release))
    assert sorted(after.models) == ["base", "one"]
    assert after.models["one"].source.name == "two"
    assert [len(layer.slots) for layer in after.layers] == [8, 8]


class Stops:
    """An executor that dies after so many tasks, and counts them."""

    def __init__(self, after: int | None = None) -> None:
        self.left = after
        self.ran = 0

    def map(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Any],
        **options: Any,
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            if self.left is not None and self.ran >= self.left:
                raise KeyboardInterrupt
            self.ran += 1
            yield index, function(task)


def test_a_killed_run_leaves_nothing_visible_and_is_taken_up(family: Paths, tmp_path: Path) -> None:
    models = pick(family, "one", "two")
    whole = Stops()
    expected = consolidated(
        recipe_of(tmp_path / "whole", models, 1.5),
        executor=whole,
    )
    recipe = recipe_of(tmp_path / "r", models, 1.5, channel="stable")
    total = 0
    for after in range(1, whole.ran, 4):
        killed = Stops(after=4)
        with pytest.raises(KeyboardInterrupt):
            consolidated(recipe, executor=killed)
        total += killed.ran
        assert total == after + 3
        registry = Registry(str(tmp_path / "r"), "fam")
        assert registry.releases() == []
        assert registry.channels() == {}
        if total + 4 >= whole.ran:
            break
    last = Stops()
    outcome = consolidated(recipe, executor=last)
    assert total + last.ran == whole.ran
    assert outcome.release == expected.release
    assert [path.name for path in (tmp_path / "r/fam/work").iterdir()] == ["studies"]


def test_two_runs_of_one_recipe_at_once_make_one_release_and_both_succeed(
    family: Paths, tmp_path: Path
) -> None:
    """One runs as a whole in the middle of the other."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    recipe = recipe_of(
        tmp_path / "r",
        pick(family, "one", "two"),
        1.5,
        calibration=((None, text),),
        channel="stable",
    )
    others: list[Consolidated] = []

    def meanwhile(_: Plan) -> None:
        others.append(consolidated(recipe))

    outcome = consolidated(recipe, on_plan=meanwhile)
    assert others[0].release == outcome.release
    channel = Registry(recipe.registry, "fam").channel("stable")
    assert channel is not None
    assert channel.release == outcome.release
    kept = [name for name in files(tmp_path / "r") if name.startswith("fam/work/")]
    assert {name.split("/")[2] for name in kept} == {"statistics", "studies"}


def test_a_changed_checkpoint_is_not_taken_from_the_journal(family: Paths, tmp_path: Path) -> None:
    model = tune(family["base"], tmp_path / "m", 5, experts=0.1)
    with pytest.raises(KeyboardInterrupt):
        consolidated(recipe_of(tmp_path / "r", {"m": model}), executor=Stops(after=4))
    path = model / "model.safetensors"
    path.write_bytes((family["one"] / "model.safetensors").read_bytes())
    outcome = run(tmp_path / "r", {"m": model})
    assert verify(Registry(str(tmp_path / "r"), "fam"), outcome.release or "") == []
    one = run(tmp_path / "r", {"m": family["one"]})
    assert manifest_of(one).layers == manifest_of(outcome).layers


def test_a_blob_lost_after_it_was_noted_is_written_again(family: Paths, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, pick(family, "one", "two"), 1.2)
    with pytest.raises(KeyboardInterrupt):
        # Noise floor, scan, compare, backbone and build.
        consolidated(recipe, executor=Stops(after=7 + 14 + 2 + 12))
    for blob in (tmp_path / "fam/blobs").iterdir():
        blob.unlink()
    assert consolidated(recipe).release is not None


def test_verify_names_altered_files_and_wrong_answers(family: Paths, tmp_path: Path) -> None:
    manifest = manifest_of(run_whole(tmp_path, pick(family, "one")))
    registry = Registry(str(tmp_path), "fam")
    golden = manifest.models["one"].golden
    assert golden is not None
    assert (len(golden.prompt), len(golden.tokens), len(golden.top[0])) == (16, 16, 20)
    other = golden.model_copy(update={"tokens": (*golden.tokens[:-1], golden.tokens[-1] + 1)})
    models = {"one": manifest.models["one"].model_copy(update={"golden": other})}
    wrong = registry.publish(manifest.model_copy(update={"models": models}))
    (finding,) = verify(registry, wrong)
    assert "model 'one': golden token 15" in finding
    blob = tmp_path / f"fam/blobs/{manifest.layers[1].slots[2].digest}.safetensors"
    blob.write_bytes(blob.read_bytes()[:-4] + b"abcd")
    assert [blob.name in text and "altered" in text for text in verify(registry, manifest.id)] == [
        True
    ]


def test_trouble_in_the_registry_stops_a_run(family: Paths, tmp_path: Path) -> None:
    first = run(tmp_path, pick(family, "one"))
    blob = manifest_of(first).layers[0].slots[0]
    path = tmp_path / f"fam/blobs/{blob.digest}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Damaged, match=path.name):
        run(tmp_path, pick(family, "one", "two"))


def test_models_without_a_tokenizer_are_scored_on_bytes(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", "olmoe", tokenizer=False, vocab_size=100)
    manifest = manifest_of(run_whole(tmp_path / "r", {"m": path}))
    assert manifest.models["m"].tokenizer_files == {}
    assert manifest.quality["m"].tokens > 1000


def test_models_may_differ_in_vocabulary_and_rope(tmp_path: Path) -> None:
    one = write_checkpoint(tmp_path / "one", "mixtral")
    rope = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
    two = write_checkpoint(tmp_path / "two", "mixtral", 1, vocab_size=331, rope_parameters=rope)
    manifest = manifest_of(run(tmp_path / "r", {"one": one, "two": two}, 1.5))
    assert manifest.models["two"].config["rope_parameters"]["factor"] == 2.0
    assert manifest.models["two"].config["vocab_size"] == 331
    assert verify(Registry(str(tmp_path / "r"), "fam"), manifest.id) == []


def test_a_channel_moved_meanwhile_is_left_alone(family: Paths, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path), "fam")
    first = run(tmp_path, pick(family, "one"), channel="stable")

    def interfere(progress: Progress) -> None:
        if progress.stage == "publish" and progress.done == 0:
            registry.move_channel("stable", second.release or "")

    second = run(tmp_path, pick(family, "two"))
    recipe = recipe_of(tmp_path, pick(family, "base"), channel="stable")
    with pytest.raises(RunFailed, match=r"is published, but channel 'stable' points at"):
        consolidated(recipe, progress=interfere)
    channel = registry.channel("stable")
    assert channel is not None
    assert (channel.release, channel.previous) == (second.release, first.release)
