"""Encoder–decoders go from checkpoints to releases that are measured and verified."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from consolidation.evaluation.baselines.catalogue import make_baselines
from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.evaluation.data import encode, read_files
from consolidation.evaluation.evaluate import evaluate
from consolidation.evaluation.methods import ReleaseMethod
from consolidation.evaluation.verify import verify
from consolidation.release import Registry, ReleaseReader
from consolidation.statistics.text import read_calibration
from tests.consolidation.evaluation.methods import FromCheckpoint
from tests.consolidation.families import write_family
from tests.consolidation.running import Paths, manifest_of, pick, run, run_whole
from tests.support.checkpoints import byte_tokenizer, loaded, write_checkpoint

TEXT = "the quick brown fox jumps over the lazy dog while nobody is there to mind it"
WORDS = TEXT.split()
ARCHITECTURE = "switch_transformers"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return write_family(tmp_path_factory.mktemp("both"), ARCHITECTURE)


def pairs_in(path: Path, count: int = 40) -> Path:
    lines = [
        json.dumps(
            {
                "prompt": " ".join(WORDS[(i + j) % len(WORDS)] for j in range(3 + i % 9)),
                "completion": " ".join(WORDS[(i * j) % len(WORDS)] for j in range(1 + i % 4)),
            }
        )
        for i in range(count)
    ]
    path.write_text("\n".join(lines))
    return path


def words_by_generate(path: Path, prompts: list[str]) -> list[str]:
    model, tokenizer = loaded(path).eval(), byte_tokenizer()
    found = []
    for prompt in prompts:
        asked = torch.tensor([tokenizer(prompt)["input_ids"]])
        made = model.generate(asked, max_new_tokens=3, do_sample=False)
        words = str(tokenizer.decode(made[0], skip_special_tokens=True)).split()
        found.append(words[0] if words else "nothing")
    return found


def test_an_exact_release_verifies_and_golden_prompts_find_a_changed_one(
    models: Paths, tmp_path: Path
) -> None:
    manifest = manifest_of(run_whole(tmp_path / "r", pick(models, "one", "frozen")))
    registry = Registry(str(tmp_path / "r"), "fam")
    assert verify(registry, manifest.id) == []
    assert manifest.architecture == "SwitchTransformersForConditionalGeneration"
    for name, model in manifest.models.items():
        assert model.config["decoder_start_token_id"] == 0
        assert model.golden is not None
        asked = torch.tensor([model.golden.prompt])
        made = loaded(models[name]).eval().generate(asked, max_new_tokens=16, min_new_tokens=16)
        assert made[0, 1:].tolist() == list(model.golden.tokens)
        assert manifest.quality[name].kl == 0.0


def test_a_budget_is_kept_and_each_model_measured(models: Paths, tmp_path: Path) -> None:
    pairs = pairs_in(tmp_path / "pairs.jsonl", count=24)
    outcome = run(
        tmp_path / "r",
        pick(models, "one", "two"),
        0.5,
        base=models["base"],
        calibration=((None, pairs),),
        tasks={"one": pairs_in(tmp_path / "task.jsonl", count=3)},
        texts={"two": pairs_in(tmp_path / "own.jsonl", count=3)},
    )
    manifest = manifest_of(outcome)
    assert manifest.expert_bytes_after <= 0.5 * manifest.expert_bytes_one_model
    assert [layer.module.partition(".")[0] for layer in manifest.layers] == [
        *["encoder"] * 2,
        *["decoder"] * 2,
    ]
    of_decoder = [layer.device_bytes(manifest.dtype) for layer in manifest.layers[2:]]
    assert manifest.step_bytes == outcome.plan.step_bytes
    assert 0 < outcome.plan.step_bytes <= sum(of_decoder)
    for quality in manifest.quality.values():
        assert quality.kl_base is not None
        assert 0 < quality.kl < 0.05 * quality.kl_base
    assert manifest.quality["one"].accuracy_release is not None
    assert verify(Registry(str(tmp_path / "r"), "fam"), manifest.id) == []


def test_a_release_of_as_many_bytes_is_better_than_other_methods(
    models: Paths, tmp_path: Path
) -> None:
    manifest = manifest_of(run(tmp_path / "r", pick(models, "one", "two"), 1.0))
    reader = ReleaseReader(Registry(str(tmp_path / "r"), "fam"), manifest.id)
    files = read_files({"one": pairs_in(tmp_path / "pairs.jsonl", count=4)}, {})
    checkpoints = {name: open_checkpoint(models[name]) for name in ("one", "two")}
    names = ("average", "round-robin", "hc-smoe", "private-4-bit")
    others = make_baselines(names, Subjects(checkpoints, None), read_calibration(()))
    scores = evaluate(checkpoints, encode(files, checkpoints), [ReleaseMethod(reader), *others])
    kls = [score.mean_kl for score in scores]
    assert 0 < kls[0] < min(kls[1:]) / 10


def test_a_task_is_answered_as_by_generate(models: Paths, tmp_path: Path) -> None:
    prompts = [" ".join(WORDS[i : i + 5]) for i in range(9)]
    answers = words_by_generate(models["one"], prompts)
    wanted = [word if i % 3 else "never" for i, word in enumerate(answers)]
    num_right = sum(word not in ("never", "nothing") for word in wanted)
    assert 2 < num_right < 9
    lines = [
        json.dumps({"prompt": one, "completion": word})
        for one, word in zip(prompts, wanted, strict=True)
    ]
    (tmp_path / "task.jsonl").write_text("\n".join(lines))
    files = read_files({"one": tmp_path / "task.jsonl"}, {})
    checkpoints = {"one": open_checkpoint(models["one"])}
    (score,) = evaluate(
        checkpoints, encode(files, checkpoints), [FromCheckpoint("same", checkpoints["one"])]
    )
    (found,) = score.models
    assert found.accuracy == found.accuracy_original == pytest.approx(num_right / 9)
    assert found.kl == 0.0
    assert set(found.router_agreement) == {1.0}


def test_a_decoder_is_of_another_family(models: Paths, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "mixtral")
    with pytest.raises(Refused, match="not of one family") as refused:
        run(tmp_path / "r", {"one": models["one"], "other": other})
    first = "model_type: 'switch_transformers' in 'one', 'mixtral' in 'other'"
    assert str(refused.value).splitlines()[1].strip() == first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder_start_token_id": None}, "its config has no decoder_start_token_id"),
        ({"num_sparse_decoder_layers": 5}, "its decoder has no experts"),
        ({"num_sparse_encoder_layers": 5}, "its encoder has no experts"),
    ],
)
def test_what_cannot_be_run_is_refused_before_tensors_are_read(
    changes: dict[str, Any], said: str, models: Paths, tmp_path: Path
) -> None:
    path = tmp_path / "changed"
    shutil.copytree(models["one"], path)
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((path / name).read_text()) | changes
        for half in ("encoder", "decoder"):
            fields.pop(f"{half}_sparse_step", None)
        (path / name).write_text(json.dumps(fields))
    with pytest.raises(Refused, match=said):
        open_checkpoint(path)


def test_generation_defaults_may_say_what_the_decoder_begins_with(
    models: Paths, tmp_path: Path
) -> None:
    path = tmp_path / "changed"
    shutil.copytree(models["one"], path)
    for name, token in (("config.json", None), ("generation_config.json", 7)):
        fields = json.loads((path / name).read_text()) | {"decoder_start_token_id": token}
        (path / name).write_text(json.dumps(fields))
    found = open_checkpoint(path)
    assert found.beginning == (found.config["decoder_start_token_id"],) == (7,)


def test_a_record_without_a_prompt_is_named(models: Paths, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"completion": "b"}')
    with pytest.raises(Refused, match=r"pairs\.jsonl, line 2: not an object with prompt and"):
        run(tmp_path / "r", pick(models, "one"), 1.0, calibration=((None, path),))
    assert not (tmp_path / "r").exists()
