"""What the pipeline refuses, and that nothing is written then."""

import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from consolidation.errors import Refused
from consolidation.evaluation.gates import QualityLimits
from consolidation.pipeline import Recipe, consolidate
from consolidation.run.executor import LocalExecutor
from tests.consolidation.families import tune
from tests.consolidation.running import Paths, files, manifest_of, pick, run
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


@pytest.mark.parametrize("budget", [None, 1.5])
def test_experts_that_are_not_finite_are_refused(
    family: Paths, tmp_path: Path, budget: float | None
) -> None:
    bad = tune(family["base"], tmp_path / "bad", 1, experts=float("inf"), backbone=0.0)
    with pytest.raises(Refused, match=r"model 'bad': expert 0 .* not finite"):
        run(tmp_path / "r", {"bad": bad, **pick(family, "one")}, budget)


def test_backbones_that_are_not_finite_are_refused_where_tokens_use_them(
    family: Paths, tmp_path: Path
) -> None:
    bad = tune(family["base"], tmp_path / "bad", 1, experts=0.0, backbone=0.0)
    tensors = load_file(bad / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    embedding[300] = math.nan  # bytes and special tokens end before
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    assert manifest_of(run(tmp_path / "r", {"bad": bad})).quality["bad"].kl == 0
    embedding[:] = math.nan
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match=r"model 'bad' gives values .* not finite"):
        run(tmp_path / "r", {"bad": bad})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"models": {}}, "no model given"),
        ({"models": {"a/b": Path("x")}}, "model 'a/b'"),
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
        ({"base": Path("nowhere")}, "no checkpoint directory"),
        ({"models": {"a": Path("nowhere")}}, "no checkpoint directory"),
    ],
)
def test_a_wrong_recipe_is_refused(
    family: Paths, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    wanted = {"family": "fam", "models": pick(family, "one"), **fields}
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
