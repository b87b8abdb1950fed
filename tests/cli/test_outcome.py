"""What `consolidate` prints of plans and releases, with tasks run here instead of by Ray."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
import torch

from consolidation.release import Registry
from consolidation.run.executor import LocalExecutor
from serve_app.cli.main import run
from tests.consolidation.running import little_to_validate
from tests.support.adapters import write_listed
from tests.support.checkpoints import byte_tokenizer, tiny_model

MODELS = ("base", "code", "news")
TEXT = "Texts that models are tuned to tell a planner which of their weights matter. " * 12

Consolidate = Callable[..., tuple[int, str, str]]


class Here(LocalExecutor):
    """In place of what starts Ray."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a fine-tune close to it and one that is the base, in bfloat16; text and a task."""
    directory = tmp_path_factory.mktemp("family")
    for name, size in zip(MODELS, (0.0, 0.003, 0.0), strict=True):
        model = tiny_model("mixtral").to(torch.bfloat16)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if "experts" in path:
                    parameter.add_((noise * size).to(parameter.dtype))
        model.save_pretrained(directory / name)
        byte_tokenizer().save_pretrained(directory / name)
    (directory / "text.txt").write_text(TEXT)
    (directory / "task.jsonl").write_text('{"prompt": "one and one is", "completion": " two"}\n')
    return directory


@pytest.fixture
def consolidate(
    family: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Consolidate:
    """Runs the command on the family; gives code, stdout, stderr."""
    monkeypatch.setattr("serve_app.cli.consolidate.LazyRay", Here)
    monkeypatch.setenv("COLUMNS", "80")
    place = ["--family", "tiny", "--registry", str(tmp_path / "registry")]
    models = [f"--model={name}={family / name}" for name in MODELS]

    def consolidate(*arguments: str) -> tuple[int, str, str]:
        with little_to_validate():
            code = run(["consolidate", *place, *models, f"--base={family / 'base'}", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return consolidate


def test_a_budget_prints_formats_what_is_expected_and_what_was_measured(
    consolidate: Consolidate, family: Path, tmp_path: Path
) -> None:
    text = f"--calibration={family / 'text.txt'}"
    task, own = f"--task=code={family / 'task.jsonl'}", f"--text=code={family / 'text.txt'}"
    code, out, err = consolidate("--expert-budget=0.6", text, task, own)
    assert code == 0, err
    assert re.search(r"^of one model +0\.[56]\d+ ×$", out, re.MULTILINE)
    slots = re.search(r"^slots +experts *\n((?:\S+ +\d+ *\n)+)", out, re.MULTILINE)
    assert slots is not None
    rows = [row.split() for row in slots[1].splitlines()]
    assert sum(int(count) * (1 if "@" in label else 2) for label, count in rows) == 2 * 36
    assert "expected KL" in out
    read = r"^read in a step +\d+\.\d+ KiB of experts, by 12 sequences, 4 for each model$"
    assert re.search(read, out, re.MULTILINE)
    columns = r"model +KL, nats +expected +retained +perplexity +accuracy +tokens"
    assert re.search(rf"^{columns}$", out, re.MULTILINE)
    assert re.search(r"^news .* – ", out, re.MULTILINE)  # It has no task.
    report = re.search(r"^report (.+)$", out, re.MULTILINE)
    assert report is not None
    assert Path(report[1]).is_file()
    assert str(tmp_path) in report[1]
    assert max(map(len, out.replace(report[0], "").splitlines())) <= 80


def test_without_calibration_nothing_is_expected_and_the_error_is_of_weights(
    consolidate: Consolidate,
) -> None:
    code, out, err = consolidate("--expert-budget=0.6", "--dry-run")
    assert code == 0, err
    assert "weight error" in out
    assert "expected" not in out
    assert "release" not in out


def test_json_holds_formats_and_divergences_expected_and_found(
    consolidate: Consolidate, family: Path
) -> None:
    text = f"--calibration=code={family / 'text.txt'}"
    code, out, err = consolidate("--expert-budget=1.1", text, "--exact=news", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert sum(told["formats"].values()) == told["experts"]
    assert 0 < told["step_bytes"] < told["expert_bytes_after"]
    assert set(told["predicted_kl"]) == set(MODELS)
    assert told["quality"]["news"]["kl"] == 0
    assert "of one model" in err


def test_a_target_prints_a_line_for_each_plan_tried_and_one_plan(
    consolidate: Consolidate, family: Path
) -> None:
    text = f"--calibration={family / 'text.txt'}"
    code, out, err = consolidate("--target-kl=0.002", text, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert sum(one["kl"] for one in told["quality"].values()) / len(MODELS) <= 0.002
    tried = re.findall(r"^trying .*, expected KL \S+$", err, re.MULTILINE)
    assert tried
    assert len(tried) == len(set(tried))
    assert len(re.findall(r"^of one model", err, re.MULTILINE)) == 1


def test_what_a_device_has_room_for_is_what_serving_takes(
    consolidate: Consolidate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = consolidate("--device-memory=1000")
    assert code == 2
    least = int(re.findall(r"take ([\d,]+) bytes", err)[0].replace(",", ""))
    device = str(least + 45_000)
    code, out, err = consolidate("--device-memory", device)
    assert code == 0, err
    assert "packed-" in out
    after = Registry(str(tmp_path / "registry"), "tiny")
    (release,) = after.releases()
    assert after.read_manifest(release.id).expert_bytes_after <= 45_000
    place = ["--family", "tiny", "--registry", str(tmp_path / "registry")]
    assert run(["plan-memory", *place, "--device-memory", device]) == 0
    assert "spare" in capsys.readouterr().out


def test_a_limit_that_is_passed_is_told_by_model_and_nothing_is_published(
    consolidate: Consolidate, tmp_path: Path
) -> None:
    code, out, err = consolidate("--expert-budget=0.3", "--max-kl=0.000001")
    assert code == 2
    assert "code" in err
    assert "nothing was published" in err
    assert "release" not in out
    assert Registry(str(tmp_path / "registry"), "tiny").releases() == []


def test_an_adapter_that_saves_nothing_in_experts_this_small_is_shown_as_merged(
    consolidate: Consolidate, family: Path, tmp_path: Path
) -> None:
    base = family / "base"
    write_listed(base, tmp_path / "both", r".*(experts\.0\.w2|q_proj|gate)\.weight")
    write_listed(base, tmp_path / "experts", r".*experts\.0\.w2\.weight")
    added = [f"--model={name}={base}+{tmp_path / name}" for name in ("both", "experts")]
    code, out, err = consolidate(*added)
    assert code == 0, err
    assert re.search(r"^both .* 6 tensors merged *$", out, re.MULTILINE), out
    assert re.search(r"^experts .* merged *$", out, re.MULTILINE), out
    assert re.search(r"^code .* – *$", out, re.MULTILINE), out
