import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.errors import Refused, RunFailed
from consolidation.evaluation.data import ModelData, encode, read_files
from consolidation.evaluation.evaluate import evaluate
from consolidation.evaluation.measures import ModelScore
from consolidation.run.executor import Progress
from tests.consolidation.evaluation.methods import FromCheckpoint, Given
from tests.consolidation.families import write_family
from tests.support.checkpoints import byte_tokenizer
from tests.support.whole_models import load_original

LENGTH = 256
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 9
PROMPTS = [f"{word} is followed by" for word in TEXT.split()[:12]]


@pytest.fixture(scope="module")
def checkpoints(family: dict[str, Path]) -> dict[str, Checkpoint]:
    return {name: open_checkpoint(family[name]) for name in ("one", "two")}


@pytest.fixture(scope="module")
def models(family: dict[str, Path]) -> dict[str, Any]:
    return {name: load_original(family[name]) for name in ("one", "two")}


@pytest.fixture(scope="module")
def answers(models: dict[str, Any]) -> list[str]:
    """What `one` answers itself, so that accuracy is neither 0 nor 1 where some are changed."""
    found = [answer(models["one"], prompt) for prompt in PROMPTS]
    return [word if index % 3 else "never" for index, word in enumerate(found)]


def answer(model: Any, prompt: str) -> str:
    """The first word of a greedy answer, by transformers' own generation."""
    tokenizer = byte_tokenizer()
    asked = torch.tensor([tokenizer(prompt)["input_ids"]])
    made = model.generate(
        asked, attention_mask=torch.ones_like(asked), max_new_tokens=3, do_sample=False
    )
    words = str(tokenizer.decode(made[0, asked.shape[1] :], skip_special_tokens=True)).split()
    return words[0] if words else "nothing"


def data_of(
    tmp_path: Path, checkpoints: dict[str, Checkpoint], answers: list[str] | None, text: str | None
) -> ModelData:
    tasks, texts = {}, {}
    if answers is not None:
        tasks["one"] = tmp_path / "task.jsonl"
        pairs = zip(PROMPTS, answers, strict=True)
        lines = [json.dumps({"prompt": one, "completion": f" {other}"}) for one, other in pairs]
        tasks["one"].write_text("\n".join(lines))
    if text is not None:
        texts["one"] = tmp_path / "text.txt"
        texts["one"].write_text(text)
    return encode(read_files(tasks, texts), checkpoints)["one"]


def score_of(
    data: ModelData, checkpoints: dict[str, Checkpoint], models: dict[str, Any], other: str
) -> ModelScore:
    (score,) = evaluate(checkpoints, {"one": data}, [Given("other", {"one": models[other]})])
    (found,) = score.models
    return found


def with_experts_of(models: dict[str, Any], family: dict[str, Path], other: str) -> Any:
    model = load_original(family["one"])
    for layer, wanted in zip(model.model.layers, models[other].model.layers, strict=True):
        layer.mlp.experts.load_state_dict(wanted.mlp.experts.state_dict())
    return model


def test_a_text_is_scored_as_its_definition_says(
    tmp_path: Path,
    family: dict[str, Path],
    checkpoints: dict[str, Checkpoint],
    models: dict[str, Any],
) -> None:
    data = data_of(tmp_path, checkpoints, None, TEXT)
    found = score_of(data, checkpoints, models, "two")

    changed = with_experts_of(models, family, "two")
    ids = byte_tokenizer()(TEXT, add_special_tokens=False)["input_ids"]
    losses: list[list[float]] = [[], []]
    divergences, same, routed = [], [], []
    moved: list[float] = []
    for start in range(0, len(ids), LENGTH):
        window = torch.tensor([ids[start : start + LENGTH]])
        with torch.inference_mode():
            runs = [model(window, output_router_logits=True) for model in (models["one"], changed)]
        logs = [functional.log_softmax(run.logits[0, :-1].double(), -1) for run in runs]
        for log, into in zip(logs, losses, strict=True):
            into += (-log.gather(1, window[0, 1:, None])).flatten().tolist()
        divergences += (logs[0].exp() * (logs[0] - logs[1])).sum(-1).tolist()
        before, after = (log.exp().gather(1, window[0, 1:, None]) for log in logs)
        moved += (after - before).flatten().tolist()
        same += (logs[0].argmax(-1) == logs[1].argmax(-1)).tolist()
        layers = zip(runs[0].router_logits, runs[1].router_logits, strict=True)
        routed.append(torch.stack([one.argmax(-1) == two.argmax(-1) for one, two in layers]))

    assert found.tokens == len(divergences) == len(ids) - math.ceil(len(ids) / LENGTH)
    assert found.kl == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
    assert found.kl > 0.001
    percentiles = np.percentile(divergences, [99, 99.9]).tolist()
    assert [found.kl_99, found.kl_999] == pytest.approx(percentiles, rel=1e-4)
    assert found.kl < found.kl_99 < found.kl_999
    assert found.rms_dp == pytest.approx(np.std(moved, mean=0.0).item(), rel=1e-3)
    assert found.perplexity_original == pytest.approx(
        math.exp(sum(losses[0]) / len(losses[0])), rel=1e-5
    )
    assert found.perplexity == pytest.approx(math.exp(sum(losses[1]) / len(losses[1])), rel=1e-5)
    assert found.token_agreement == pytest.approx(sum(same) / len(same), abs=0.003)
    assert 0 < found.token_agreement < 1
    wanted = torch.cat(routed, 1).double().mean(1).tolist()
    assert found.router_agreement == pytest.approx(wanted, abs=0.003)
    assert min(found.router_agreement) < 1
    assert found.accuracy is None
    assert found.accuracy_original is None


def test_a_task_is_scored_as_its_definition_says(
    tmp_path: Path,
    family: dict[str, Path],
    checkpoints: dict[str, Checkpoint],
    models: dict[str, Any],
    answers: list[str],
) -> None:
    data = data_of(tmp_path, checkpoints, answers, None)
    found = score_of(data, checkpoints, models, "two")

    changed = with_experts_of(models, family, "two")
    divergences = []
    for prompt in PROMPTS:
        asked = torch.tensor([byte_tokenizer()(prompt)["input_ids"]])
        with torch.inference_mode():
            logs = [
                functional.log_softmax(model(asked).logits[0, -1].double(), -1)
                for model in (models["one"], changed)
            ]
        divergences.append(float((logs[0].exp() * (logs[0] - logs[1])).sum()))
    right = [
        sum(answer(model, prompt) == word for prompt, word in zip(PROMPTS, answers, strict=True))
        for model in (models["one"], changed)
    ]
    assert found.tokens == len(PROMPTS)
    assert found.kl == pytest.approx(sum(divergences) / len(PROMPTS), rel=1e-4)
    assert found.accuracy_original == pytest.approx(right[0] / len(PROMPTS))
    assert found.accuracy == pytest.approx(right[1] / len(PROMPTS))
    assert 0 < right[1] < right[0] < len(PROMPTS)
    assert found.perplexity is None


def test_a_model_with_its_own_experts_is_the_same_to_the_last_bit(
    tmp_path: Path, checkpoints: dict[str, Checkpoint], models: dict[str, Any], answers: list[str]
) -> None:
    data = data_of(tmp_path, checkpoints, answers, TEXT)
    found = score_of(data, checkpoints, models, "one")
    assert [found.kl, found.kl_99, found.kl_999, found.rms_dp] == [0.0] * 4
    assert found.token_agreement == 1.0
    assert set(found.router_agreement) == {1.0}
    assert found.accuracy == found.accuracy_original
    assert found.perplexity == found.perplexity_original


def test_a_model_with_both_a_task_and_a_text_gets_the_mean_of_their_divergences(
    tmp_path: Path, checkpoints: dict[str, Checkpoint], models: dict[str, Any], answers: list[str]
) -> None:
    kinds = ((answers, TEXT), (answers, None), (None, TEXT))
    both, task, text = (
        score_of(data_of(tmp_path, checkpoints, *kind), checkpoints, models, "two")
        for kind in kinds
    )
    assert both.kl == (task.kl + text.kl) / 2
    assert both.tokens == task.tokens + text.tokens
    assert both.accuracy == task.accuracy
    assert both.perplexity == text.perplexity


def test_scores_do_not_depend_on_how_many_threads_there_are(
    tmp_path: Path,
    checkpoints: dict[str, Checkpoint],
    models: dict[str, Any],
    answers: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = data_of(tmp_path, checkpoints, answers, TEXT)
    many = score_of(data, checkpoints, models, "two")
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert score_of(data, checkpoints, models, "two") == many


def test_each_method_gives_all_experts_anew(
    tmp_path: Path, checkpoints: dict[str, Checkpoint], models: dict[str, Any]
) -> None:
    data = {"one": data_of(tmp_path, checkpoints, None, TEXT[:100])}
    others = Given("others", {"one": models["two"]}, 2 * checkpoints["one"].expert_bytes)
    own = Given("own", {"one": models["one"]})
    seen: list[Progress] = []
    first, second = evaluate(checkpoints, data, [others, own], progress=seen.append)
    assert first.mean_kl > 0
    assert second.mean_kl == 0
    assert first.bytes_of_one_model == 2.0
    assert others.asked == [("one", 0), ("one", 1)]
    assert {(now.stage, now.total) for now in seen} == {("one", 3)}
    far = [now.done + now.share for now in seen]
    assert far == sorted(far)
    assert {0.0, 1.0, 2.0, 3.0} < set(far), "each run is told, and how far it is"


def test_what_is_kept_of_an_effect_is_measured_against_the_whole_base(
    tmp_path: Path, checkpoints: dict[str, Checkpoint], models: dict[str, Any]
) -> None:
    data = {"one": data_of(tmp_path, checkpoints, None, TEXT[:100])}
    methods = [Given(name, {"one": models[name]}) for name in ("one", "two")]
    own, other = (
        score.models[0] for score in evaluate(checkpoints, data, methods, base=checkpoints["two"])
    )
    (window,) = (torch.tensor([w.tokens]) for w in data["one"].text)
    with torch.inference_mode():
        one, two = (
            functional.log_softmax(models[name](window).logits[0, :-1].double(), -1)
            for name in ("one", "two")
        )
    effect = float((one.exp() * (one - two)).sum(-1).mean())
    assert own.kl_base == other.kl_base == pytest.approx(effect, rel=1e-4)
    assert own.retained == 1.0
    assert other.retained == pytest.approx(1 - other.kl / effect, abs=1e-3)
    assert evaluate(checkpoints, data, methods)[0].models[0].retained is None


def test_experts_of_another_shape_are_refused_by_name(
    tmp_path: Path, checkpoints: dict[str, Checkpoint], models: dict[str, Any]
) -> None:
    class Half(Given):
        def experts(self, model: str, layer: int) -> dict[str, torch.Tensor]:
            return {name: tensor[1:] for name, tensor in super().experts(model, layer).items()}

    data = {"one": data_of(tmp_path, checkpoints, None, TEXT[:100])}
    with pytest.raises(
        RunFailed, match=r"half, model 'one': .*experts\.gate_up_proj is \(4, 48, 32"
    ):
        evaluate(checkpoints, data, [Half("half", {"one": models["one"]})])


def test_two_methods_of_one_name_are_refused(
    tmp_path: Path, checkpoints: dict[str, Checkpoint], models: dict[str, Any]
) -> None:
    data = {"one": data_of(tmp_path, checkpoints, None, TEXT[:100])}
    method = Given("same", models)
    with pytest.raises(Refused, match="two methods are called 'same'"):
        evaluate(checkpoints, data, [method, method])


@pytest.mark.parametrize("architecture", ["gpt_oss", "deepseek_v3", "qwen2_moe"])
def test_models_with_other_routers_are_measured_too(architecture: str, tmp_path: Path) -> None:
    paths = write_family(tmp_path / "family", architecture)
    checkpoints = {name: open_checkpoint(paths[name]) for name in ("one", "frozen")}
    data = {"one": data_of(tmp_path, checkpoints, None, TEXT[:200])}
    methods = [FromCheckpoint(name, checkpoints[name]) for name in ("one", "frozen")]
    same, other = (score.models[0] for score in evaluate(checkpoints, data, methods))
    assert same.kl == 0.0
    assert set(same.router_agreement) == {1.0}
    assert len(same.router_agreement) == len(checkpoints["one"].experts)
    assert other.kl > 0.0
    assert min(other.router_agreement) < 1.0
