"""The commands with models named on the hub, as users run them, without Ray."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from consolidation.release import Registry
from serve_app.cli.main import run
from tests.consolidation.sources.conftest import NAME, copied
from tests.support.adapters import write_adapter
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import Hub

pytestmark = pytest.mark.usefixtures("without_ray")


def test_a_release_and_its_recipe_name_repository_and_commit_and_are_made_again_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--family=f", f"--registry={tmp_path / 'r'}"]
    assert run(["consolidate", *place, f"--model=a={NAME}"]) == 0
    assert "fetch" in capsys.readouterr().err
    commit = hub.repositories[NAME].refs["main"]
    [release] = Registry(str(tmp_path / "r"), "f").releases()
    manifest = Registry(str(tmp_path / "r"), "f").read_manifest(release.id)
    assert manifest.models["a"].source.name == f"{NAME}@{commit}"
    beside = tmp_path / "r" / "f" / "releases" / release.id / "recipe.yaml"
    assert yaml.safe_load(beside.read_text())["models"] == {"a": f"hf://{NAME}@{commit}"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(["consolidate", str(beside), f"--registry={tmp_path / 'again'}"]) == 0
    [again] = Registry(str(tmp_path / "again"), "f").releases()
    assert again.id == release.id
    capsys.readouterr()
    assert run(["inspect", *place]) == 0
    assert f"a from {NAME}@{commit}\n" in capsys.readouterr().out


def test_an_adapter_on_the_hub_is_pinned_too_and_only_its_files_are_fetched(
    hub: Hub, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = write_adapter(sharded, tmp_path / "lora", r=2, target_modules=["q_proj"])
    (lora / "optimizer.pt").write_bytes(b"x")
    commits = hub.repositories[NAME].refs["main"], hub.put("org/lora", lora, branch="v1")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"family: f\nregistry: r\nmodels: {{a: {NAME}, b: {NAME}+org/lora@v1}}\n")
    assert run(["consolidate", str(recipe)]) == 0
    assert [name for name in sorted(hub.fetched()) if name.startswith("adapter")] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert "optimizer.pt" not in hub.fetched()
    registry = Registry(str(tmp_path / "r"), "f")
    [release] = registry.releases()
    source = registry.read_manifest(release.id).models["b"].source
    base, adapter = f"{NAME}@{commits[0]}", f"org/lora@{commits[1]}"
    assert source.name == f"{base}+{adapter}"
    beside = tmp_path / "r" / "f" / "releases" / release.id / "recipe.yaml"
    assert yaml.safe_load(beside.read_text())["models"]["b"] == f"hf://{base}+hf://{adapter}"
    hub.repositories["org/lora"].refs.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(["consolidate", str(beside), f"--registry={tmp_path / 'again'}"]) == 0
    assert [one.id for one in Registry(str(tmp_path / "again"), "f").releases()] == [release.id]


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ("org/none", "'org/none' is not a directory, and "),
        ("org/lora@v9", "org/lora has no branch, tag or commit 'v9' on "),
        ("org/lora", "org/lora has no adapter_model.safetensors, but adapter_model.bin: convert"),
        (NAME, f"{NAME} is no adapter: it has no adapter_config.json"),
    ],
)
def test_what_is_wrong_with_an_adapter_on_the_hub_is_said_before_the_base_is_fetched(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], adapter: str, words: str
) -> None:
    (tmp_path / "lora").mkdir()
    for name in ("adapter_config.json", "adapter_model.bin"):
        (tmp_path / "lora" / name).write_text("{}")
    hub.put("org/lora", tmp_path / "lora")
    place = ["--family=f", f"--registry={tmp_path / 'r'}"]
    assert run(["consolidate", *place, f"--model=b={NAME}+{adapter}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words}")
    assert error.count("\n") == 1
    assert hub.fetched() == []


def test_what_is_wrong_with_a_name_is_one_line_and_nothing_is_written(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--family=f", f"--registry={tmp_path / 'r'}"]
    for command in ("consolidate", "plan-memory"):
        more = ["--consolidation"] if command == "plan-memory" else []
        (tmp_path / "r").mkdir(exist_ok=True)
        assert run([command, *place, *more, "--model=a=org/none"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: 'org/none' is not a directory, and ")
        assert error.count("\n") == 1
        assert list((tmp_path / "r").iterdir()) == []


def test_plan_memory_reads_the_headers_alone_of_a_name_on_the_hub(
    hub: Hub, sharded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r").mkdir()
    place = ["--family=f", f"--registry={tmp_path / 'r'}", "--consolidation"]
    assert run(["plan-memory", *place, f"--model=a={NAME}", f"--base={NAME}@main"]) == 0
    told = capsys.readouterr().out
    assert "calibrate" in told
    assert [name for name in hub.fetched() if name.startswith("model-0")] == []
    local = [f"--model=a={sharded}", f"--base={sharded}"]
    assert run(["plan-memory", *place, *local]) == 0
    stages = [line for line in capsys.readouterr().out.splitlines() if "free" not in line]
    assert stages == [line for line in told.splitlines() if "free" not in line]


def changed(sharded: Path, directory: Path, **fields: object) -> Path:
    copied(sharded, directory)
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    return directory


def test_what_headers_tell_is_refused_before_weights_are_fetched(
    hub: Hub, sharded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.put("org/other", changed(sharded, tmp_path / "other", num_experts_per_tok=1))
    hub.put("org/wider", changed(sharded, tmp_path / "wider", vocab_size=321))
    packed = changed(sharded, tmp_path / "packed", quantization_config={"quant_method": "gptq"})
    [shard, *_] = sorted(packed.glob("model-0*"))
    tensors = load_file(shard)
    save_file({name: one.to(torch.int32) for name, one in tensors.items()}, shard)
    hub.put("org/packed", packed)
    told = {
        f"--model=b={sharded}": "models 'a' and 'b' are not of one family:",
        "--model=b=org/wider": "org/wider: lm_head.weight gives",
        "--model=b=org/packed": "org/packed: it is quantised (gptq) in a way that is not read:",
    }
    place = ["--family=f", f"--registry={tmp_path / 'r'}", "--model=a=org/other"]
    for option, words in told.items():
        assert run(["consolidate", *place, option]) == 2
        error = capsys.readouterr().err
        assert f"error: {words}" in error
        assert "expertpool-headers" not in error
    assert "d('packed', 'packed-bf16')\"\nwhere packed is a directory with a copy of org/" in error
    assert [name for name in hub.fetched() if name.startswith("model-0")] == []
    assert not (tmp_path / "r").exists()


def test_what_headers_and_tokenizers_tell_is_refused_before_evaluate_fetches_weights(
    hub: Hub, sharded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--family=f", f"--registry={tmp_path / 'r'}"]
    assert run(["consolidate", *place, f"--model=a={sharded}"]) == 0
    (tmp_path / "text.txt").write_text("x")
    asked = ["evaluate", *place, f"--text=a={tmp_path / 'text.txt'}"]
    capsys.readouterr()
    assert run([*asked, f"--original=a={NAME}"]) == 2
    assert "text.txt has no token to score" in capsys.readouterr().err
    other = write_checkpoint(tmp_path / "other", "olmoe")
    hub.put("org/other", other)
    assert run([*asked, "--original=a=org/other"]) == 2
    assert "model 'a' of the release was not made from org/other@" in capsys.readouterr().err
    assert not [name for name in hub.fetched() if name.endswith(".safetensors")]
