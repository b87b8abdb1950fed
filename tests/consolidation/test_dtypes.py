"""Models and bases whose weights are stored in several dtypes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import ModelFiles, open_checkpoint
from consolidation.checkpoints.contents import User
from consolidation.checkpoints.family import open_family
from consolidation.compare.kin import Kin
from consolidation.compare.layer import CompareTask, Distinct, compare_layer
from consolidation.compare.origins import find_origins
from consolidation.errors import Refused
from consolidation.release import Registry, ReleaseReader
from tests.consolidation.families import write_family
from tests.consolidation.running import manifest_of, pick, run
from tests.support.checkpoints import write_checkpoint
from tests.support.quantising import everything


def stored_in(source: Path, target: Path, dtype: torch.dtype) -> Path:
    """A copy of a checkpoint in another dtype."""
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    tensors = {name: t.to(dtype) for name, t in load_file(source / "model.safetensors").items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (target / "config.json").write_text(json.dumps(config))
    return target


def edited(source: Path, target: Path, first: int) -> Path:
    """A copy of a checkpoint in which every 8th weight of an expert is another."""
    stored_in(source, target, torch.bfloat16)
    tensors = load_file(target / "model.safetensors")
    for name, tensor in tensors.items():
        if ".experts." in name:
            tensor.view(-1)[first::8] += 0.1
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_base_may_have_another_dtype_than_the_models(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    narrow = write_checkpoint(
        tmp_path / "base", "mixtral", num_hidden_layers=1, dtype=torch.bfloat16, tokenizer=False
    )
    wide = stored_in(narrow, tmp_path / "wide", dtype)
    models = {name: edited(narrow, tmp_path / name, n) for n, name in enumerate("abcd")}
    found = []
    for base in (narrow, wide):
        family = open_family(
            Registry(str(tmp_path / "registry"), "fam"),
            {name: ModelFiles(path) for name, path in models.items()},
            base=ModelFiles(base),
            extend=None,
            remove=(),
            opened=lambda _: None,
        )
        assert family.dtype == "bfloat16"
        experts = tuple(
            Distinct(
                family.source(name, 0),
                index,
                (User(name, index, 1.0),),
                f"{name}{index}",
                locked=True,
            )
            for name in models
            for index in range(2)
        )
        source = family.source(None, 0)
        task = CompareTask(0, experts, source, ("", ""), None, torch.bfloat16)
        kin = tuple(map(Kin.from_json, find_origins(task)))
        found.append(compare_layer(replace(task, kin=kin)))
    assert found[0] == found[1]
    assert "'base'" in str(found)


def test_models_of_two_dtypes_are_not_of_one_family(tmp_path: Path) -> None:
    family = write_family(tmp_path / "models", num_hidden_layers=1, tokenizer=False)
    half = stored_in(family["two"], tmp_path / "half", torch.bfloat16)
    with pytest.raises(Refused, match="dtype: 'bfloat16' in 'half', 'float32' in 'one'"):
        run(tmp_path / "registry", {"one": family["one"], "half": half})


def test_tensors_keep_the_dtypes_that_a_checkpoint_mixes(tmp_path: Path) -> None:
    family = write_family(
        tmp_path / "models",
        "deepseek_v3",
        num_hidden_layers=2,
        dtype=torch.bfloat16,
        tokenizer=False,
    )
    router = "model.layers.1.mlp.gate.weight"
    path = family["one"] / "model.safetensors"
    tensors = load_file(path)
    tensors[router] = torch.randn(tensors[router].shape)
    save_file(tensors, path, metadata={"format": "pt"})
    models = pick(family, "one", "two")
    outcome = run(tmp_path / "registry", models)
    manifest = manifest_of(outcome)
    wide = {
        name: [n for blob in model.backbone for n in blob.in_float32]
        for name, model in manifest.models.items()
    }
    always = "model.layers.1.mlp.gate.e_score_correction_bias"
    stored = {name: everything(open_checkpoint(models[name])) for name in models}
    assert router in wide["one"]
    assert router not in wide["two"]
    assert all(stored["one"][name].dtype == torch.float32 for name in wide["one"])
    assert {*wide["one"], *wide["two"]} <= {router, always}
    reader = ReleaseReader(Registry(str(tmp_path / "registry"), "fam"), outcome.release or "")
    for name in models:
        for key, tensor in reader.read_backbone(name):
            assert tensor.dtype == stored[name][key].dtype
            assert torch.equal(tensor, stored[name][key])
