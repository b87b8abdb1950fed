"""What the pipeline refuses, and that nothing is written then."""

import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.errors import Refused
from consolidation.evaluation.gates import QualityLimits
from consolidation.pipeline import Recipe, consolidate
from consolidation.recipe import check_recipe
from consolidation.run.executor import LocalExecutor, Progress
from consolidation.sources.local_sources import local_models, local_source
from tests.consolidation.families import tune
from tests.consolidation.running import Paths, files, manifest_of, pick, recipe_of, run
from tests.support.checkpoints import write_checkpoint


def test_models_of_other_families_are_refused_before_anything_is_written(
    family: Paths, tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other", "mixtral", intermediate_size=16)
    with pytest.raises(Refused, match="intermediate_size: 24 in 'one', 16 in 'other'"):
        run(tmp_path / "r", {**pick(family, "one"), "other": other})
    with pytest.raises(Refused, match=r"'\(base\)' are not of one family"):
        run(tmp_path / "r", pick(family, "one"), base=other)
    assert not (tmp_path / "r").exists()
    before = run(tmp_path / "r", pick(family, "one"), base=family["base"])
    there = files(tmp_path / "r")
    with pytest.raises(Refused, match="intermediate_size"):
        run(tmp_path / "r", {"other": other}, extend=before.release)
    assert files(tmp_path / "r") == there


ROUTER = "model.layers.1.block_sparse_moe.gate.weight"
DOWN = "model.layers.1.block_sparse_moe.experts.3.w2.weight"


@pytest.mark.parametrize(
    ("tensor", "at", "value", "budget", "words"),
    [
        (DOWN, (4, 5), math.inf, None, "layers.1.mlp.experts.down_proj holds inf at [3, 4, 5]"),
        (DOWN, (4, 5), math.nan, 1.5, "layers.1.mlp.experts.down_proj holds nan at [3, 4, 5]"),
        (ROUTER, (2, 7), math.nan, None, "layers.1.mlp.gate.weight holds nan at [2, 7]"),
        ("model.embed_tokens.weight", (300, 1), math.inf, None, "embed_tokens.weight holds inf"),
        ("lm_head.weight", (300, 31), -math.inf, None, "lm_head.weight holds -inf at [300, 31]"),
        (DOWN, (0, 0), 1e30, 1.5, "experts.down_proj holds 1e+30 at [3, 0, 0], which is beyond"),
        ("lm_head.weight", (9, 9), -1e30, 1.5, "lm_head.weight holds -1e+30 at [9, 9], which is"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_place_before_anything_is_written(
    family: Paths,
    tmp_path: Path,
    tensor: str,
    at: tuple[int, int],
    value: float,
    budget: float | None,
    words: str,
) -> None:
    bad = with_value(family["base"], tmp_path / "bad", tensor, at, value)
    with pytest.raises(Refused, match=f"model 'bad': .*{re.escape(words)}"):
        run(tmp_path / "r", {"bad": bad, **pick(family, "one")}, budget)
    assert not list((tmp_path / "r").rglob("*.safetensors"))


def test_the_base_is_looked_at_too_and_a_large_value_is_kept_without_a_budget(
    family: Paths, tmp_path: Path
) -> None:
    bad = with_value(family["base"], tmp_path / "bad", DOWN, (0, 0), math.nan)
    with pytest.raises(Refused, match=r"model '\(base\)': .* holds nan at \[3, 0, 0\]"):
        run(tmp_path / "r", pick(family, "one"), base=bad)
    large = with_value(family["base"], tmp_path / "large", DOWN, (0, 0), 1e13)
    assert manifest_of(run(tmp_path / "r", {"large": large})).quality["large"].kl == 0


def with_value(source: Path, target: Path, tensor: str, at: tuple[int, int], value: float) -> Path:
    """A copy of a checkpoint with one other value."""
    tune(source, target, 1, experts=0.0, backbone=0.0)
    tensors = load_file(target / "model.safetensors")
    tensors[tensor][at] = value
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


LEAST = r"budget of 0\.\d+ .* cannot be met: .* a budget of (0\.\d+)"


def test_a_budget_below_what_one_model_takes_is_refused_before_all_are_read(
    family: Paths, tmp_path: Path
) -> None:
    seen: dict[str, Progress] = {}
    recipe = recipe_of(tmp_path, pick(family, "one", "two"), 0.05)
    with pytest.raises(Refused, match=LEAST):
        consolidate(recipe, executor=LocalExecutor(), progress=lambda p: seen.update({p.stage: p}))
    assert seen.keys() == {"open", "budget"}
    assert seen["budget"].total == 1, "one of two layers tells it"


def test_a_budget_for_one_model_that_is_below_the_least_of_all_is_refused_before_calibrating(
    family: Paths, tmp_path: Path
) -> None:
    seen: set[str] = set()
    strangers = {
        "one": family["one"],
        "other": write_checkpoint(tmp_path / "other", "mixtral", 7, num_hidden_layers=2),
    }
    recipe = recipe_of(tmp_path / "r", strangers, 0.2)
    with pytest.raises(Refused, match=LEAST):
        consolidate(recipe, executor=LocalExecutor(), progress=lambda p: seen.add(p.stage))
    assert seen == {"open", "noise floor", "scan", "origins"}


def test_an_exact_model_needs_slots_as_it_is(family: Paths, tmp_path: Path) -> None:
    seen: set[str] = set()
    recipe = recipe_of(tmp_path, pick(family, "one", "two"), 0.9, exact=frozenset({"two"}))
    with pytest.raises(Refused, match=r"cannot be met: .* a budget of 1\.\d+"):
        consolidate(recipe, executor=LocalExecutor(), progress=lambda p: seen.add(p.stage))
    assert seen == {"open", "budget"}


def test_a_budget_below_what_a_release_that_is_extended_takes_is_refused_as_early(
    family: Paths, tmp_path: Path
) -> None:
    before = run(tmp_path, pick(family, "base", "one"))
    seen: set[str] = set()
    recipe = recipe_of(tmp_path, pick(family, "two"), 1.0, extend=before.release)
    with pytest.raises(Refused, match=r"cannot be met: .* need \d+ bytes, a budget of 2\.0"):
        consolidate(recipe, executor=LocalExecutor(), progress=lambda p: seen.add(p.stage))
    assert not seen & {"calibrate", "compare"}


def test_a_model_whose_experts_are_copies_may_take_less_than_one_slot_for_each(
    family: Paths, tmp_path: Path
) -> None:
    copies = tune(family["base"], tmp_path / "copies", 1, experts=0.0, backbone=0.0)
    tensors = load_file(copies / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in sorted(tensors) if ".experts." in name]:
        first = re.sub(r"experts\.\d+", "experts.0", name)
        noise = torch.randn(tensors[name].shape, generator=generator) * 0.01
        tensors[name] = tensors[first] + (0 if name == first else noise)
    save_file(tensors, copies / "model.safetensors", metadata={"format": "pt"})
    done = run(tmp_path / "r", {"copies": copies}, 0.35)
    assert manifest_of(done).expert_bytes_after <= 0.35 * done.plan.expert_bytes_one_model


@pytest.mark.parametrize(("text", "warned"), [("two words", True), ("a longer text " * 400, False)])
def test_little_calibration_text_is_accepted_with_a_line_about_its_worth(
    family: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, warned: bool
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text)
    recipe = recipe_of(
        tmp_path / "r",
        pick(family, "one"),
        0.9,
        calibration=((None, path),),
    )
    consolidate(recipe, executor=LocalExecutor(), dry_run=True)
    assert ("model 'one': there are only 10 tokens of calibration text for 4" in caplog.text) == (
        warned
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"models": {}}, "no model given"),
        ({"models": local_models({"a/b": Path("x")})}, "model 'a/b'"),
        ({"family": "../x"}, "family"),
        ({"channel": "a b"}, "channel"),
        ({"remove": ("a",)}, "extended"),
        ({"limits": QualityLimits(max_kl=math.nan)}, "allowed is nan, which is not a number"),
        ({"limits": QualityLimits(max_accuracy_drop=0.1)}, "needs a task"),
        ({"expert_budget": -1.0}, "budget of -1.0 is not a positive"),
        ({"expert_bytes": 0}, "bytes for experts of 0 is not a positive"),
        ({"max_formats": 0}, "at most 0 formats a layer are too few: it needs 1"),
        ({"target_kl": math.inf}, "target divergence of inf is not a positive"),
        ({"expert_budget": 1.0, "target_kl": 0.1}, "both say how much"),
        ({"weights": {"one": 0.0}}, "'one': a weight of 0.0 is not a positive"),
        ({"weights": {"two": 1.0}}, "a weight is given for 'two', which is not a new model: one"),
        ({"exact": frozenset({"two"})}, "exactness is given for 'two'"),
        ({"calibration": (("two", Path("none.txt")),)}, "calibration text is given for 'two'"),
        ({"calibration": ((None, Path("none.txt")),)}, "none.txt"),
        ({"calibration": (("one", Path(__file__)),)}, r"neither \.txt nor \.jsonl"),
        ({"base": local_source(Path("nowhere"))}, "no checkpoint directory"),
        ({"models": local_models({"a": Path("nowhere")})}, "no checkpoint directory"),
    ],
)
def test_a_wrong_recipe_is_refused(
    family: Paths, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    wanted = {"family": "fam", "models": local_models(pick(family, "one")), **fields}
    with pytest.raises(Refused, match=message):
        consolidate(Recipe(registry=str(tmp_path), **wanted), executor=LocalExecutor())
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    path = write_checkpoint(tmp_path / "m", "mixtral", vocab_size=100)
    with pytest.raises(Refused, match=r"/m: the tokenizer gives token \d+; the model knows 100"):
        run(tmp_path / "r", {"m": path})
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(Refused, match="/m: the tokenizer cannot be read"):
        run(tmp_path / "r", {"m": path})
    assert not (tmp_path / "r").exists()


def test_files_that_are_no_tokenizer_are_told_with_what_that_means(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_checkpoint(tmp_path / "m", "mixtral", tokenizer=False, num_hidden_layers=1)
    (path / "tekken.json").write_text("{}")
    run(tmp_path / "r", {"m": path})
    assert "no tokenizer can be read from tekken.json alone: text becomes the bytes" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "line 1"), ('{"prompt": "a", "completion": ""}', "not empty"), ("", "is empty")],
)
def test_wrong_calibration_lines_are_named(
    family: Paths, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(Refused, match=message):
        run(tmp_path / "r", pick(family, "one"), calibration=((None, path),))


@pytest.mark.parametrize("what", ["model", "base", "calibration"])
def test_a_path_that_is_not_utf_8_is_refused_before_anything_is_read(
    what: str, tmp_path: Path
) -> None:
    odd, plain = tmp_path / os.fsdecode(b"odd\xff.txt"), tmp_path / "plain.txt"
    recipe = Recipe(
        family="chat",
        registry=str(tmp_path),
        models=local_models({"one": odd if what == "model" else plain}),
        base=local_source(odd if what == "base" else plain),
        calibration=((None, odd if what == "calibration" else plain),),
    )
    with pytest.raises(Refused, match=r"odd\\udcff\.txt' is not UTF-8"):
        check_recipe(recipe)
