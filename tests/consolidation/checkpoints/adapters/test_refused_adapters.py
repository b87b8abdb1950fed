"""An adapter that cannot be merged is refused by name, before a tensor is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from tests.support.adapters import CONFIG, WEIGHTS, write_adapter, write_files, write_listed
from tests.support.checkpoints import write_checkpoint

PATTERN = r".*layers\.0\.(self_attn\.q_proj|block_sparse_moe\.experts\.\d+\.w1)\.weight"
Tensors = dict[str, torch.Tensor]
PATH = "base_model.model.model.layers.0"
Q = f"{PATH}.self_attn.q_proj"
W1 = f"{PATH}.block_sparse_moe.experts.0.w1"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "base", "mixtral")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return write_listed(base, tmp_path / "adapter", PATTERN)


def changed(adapter: Path, edit: Callable[[Tensors], Tensors]) -> None:
    save_file(edit(load_file(adapter / WEIGHTS)), adapter / WEIGHTS, metadata={"format": "pt"})


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "LOHA"}, "peft_type is LOHA"),
    "DoRA": ({"use_dora": True}, "use_dora is True"),
    "biases of factors": ({"lora_bias": True}, "lora_bias is True"),
    "trained tokens": ({"trainable_token_indices": [1, 2]}, r"trainable_token_indices is \[1, 2\]"),
    "repeated layers": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "activated by tokens": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    "a field that is not known": ({"new_kind": {"a": 1}}, "new_kind is {'a': 1}.*not known"),
    "a changed base": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    "a rank that is none": ({"r": 0}, "r: Input should be greater than"),
    "another rank": ({"r": 8}, r"w1 have rank 4; adapter_config.json says 8"),
    "a pattern that is none": ({"rank_pattern": {"(": 2}}, r"rank_pattern: '\(' is no pattern"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_config_that_changes_the_sum_is_refused_by_its_field(
    base: Path, adapter: Path, case: str
) -> None:
    fields, message = FIELDS[case]
    content = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**content, **fields}))

    with pytest.raises(Refused, match=message):
        open_checkpoint(base, adapter)


def test_fields_that_say_how_an_adapter_was_trained_are_passed_over(
    base: Path, adapter: Path
) -> None:
    content = json.loads((adapter / CONFIG).read_text())
    fields = {
        "target_modules": r".*\.nothing",
        "lora_dropout": 0.1,
        "layers_to_transform": [7],
        "use_dora": False,
        "new_kind": None,
        "eva_config": {"rho": 2.0},
        "init_lora_weights": "eva",
    }
    (adapter / CONFIG).write_text(json.dumps({**content, **fields}))

    assert open_checkpoint(base, adapter).adapter is not None


TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "no factor": (
        lambda t: {k: v for k, v in t.items() if k != f"{Q}.lora_B.weight"},
        f"{Q} has no lora_B",
    ),
    "a layer that is not there": (
        lambda t: {k.replace("layers.0", "layers.7"): v for k, v in t.items()},
        r"nothing in the base is called base_model.model.model.layers.7.block_sparse_moe",
    ),
    "a magnitude": (
        lambda t: t | {f"{Q}.lora_magnitude_vector": torch.ones(4)},
        f"nothing in the base is called {Q}.lora_magnitude_vector",
    ),
    "an expert too many": (
        lambda t: {k.replace("experts.3", "experts.9"): v for k, v in t.items()},
        r"expert 9 of model.layers.0.mlp.experts is adapted, and the base has 4",
    ),
    "a wider layer": (
        lambda t: t | {f"{Q}.lora_B.weight": torch.ones(40, 4)},
        rf"{Q} are of a matrix \[40, 32\]; the base's .*q_proj.weight is \[32, 32\]",
    ),
    "a wider expert": (
        lambda t: t | {f"{W1}.lora_A.weight": torch.ones(4, 36)},
        r"expert 0 of model.layers.0.mlp.experts.gate_up_proj are of a matrix \[48, 36\]",
    ),
    "factors of two ranks": (
        lambda t: t | {f"{Q}.lora_B.weight": torch.ones(32, 3)},
        r"lora_A is \[4, 32\] and lora_B \[32, 3\]: they do not fit",
    ),
    "factors in integers": (
        lambda t: t | {f"{Q}.lora_B.weight": torch.ones(32, 4, dtype=torch.int32)},
        r"q_proj.lora_B.weight is stored as I32",
    ),
    "a larger vocabulary": (
        lambda t: t | {"base_model.model.lm_head.weight": torch.ones(330, 32)},
        r"lm_head.weight is \[330, 32\]; the base's lm_head.weight is \[320, 32\]",
    ),
    "a layer under two names": (
        lambda t: (
            t
            | {
                f"{PATH}.mlp.experts.lora_A.weight": torch.ones(16, 32),
                f"{PATH}.mlp.experts.lora_B.weight": torch.ones(48, 16),
            }
        ),
        "gate_up_proj is adapted twice",
    ),
    "nothing": (lambda _: {}, "holds no tensor"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_the_base_are_refused_by_name(
    base: Path, adapter: Path, case: str
) -> None:
    edit, message = TENSORS[case]
    changed(adapter, edit)
    content = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(
        json.dumps({**content, "target_parameters": ["experts.gate_up_proj"]})
    )

    with pytest.raises(Refused, match=message):
        open_checkpoint(base, adapter)


def test_stacked_experts_that_the_config_does_not_name_are_refused(
    base: Path, tmp_path: Path
) -> None:
    names = ["experts.gate_up_proj", "experts.down_proj"]
    adapter = write_adapter(
        base, tmp_path / "adapter", r=4, target_modules=[], target_parameters=names
    )
    content = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**content, "target_parameters": names[:1]}))

    with pytest.raises(Refused, match=r"names 1 parameters of .* and the file has factors of 2"):
        open_checkpoint(base, adapter)


def test_a_tied_tensor_is_not_changed_for_one_of_its_uses(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", "granitemoe")
    tensors = {
        "base_model.model.lm_head.lora_A.weight": torch.ones(4, 32),
        "base_model.model.lm_head.lora_B.weight": torch.ones(320, 4),
    }
    adapter = write_files(tmp_path / "adapter", tensors, {"r": 4})

    with pytest.raises(Refused, match=r"lm_head.weight and model.embed_tokens.weight.*one tensor"):
        open_checkpoint(base, adapter)


def test_a_directory_says_what_is_missing_of_an_adapter(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no adapter directory .*gone"):
        open_checkpoint(base, tmp_path / "gone")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Refused, match=r"holds no adapter: it has no adapter_config.json"):
        open_checkpoint(base, empty)
    (empty / CONFIG).write_text('{"peft_type": "LORA"}')
    with pytest.raises(Refused, match=r"empty has no adapter_model.safetensors$"):
        open_checkpoint(base, empty)
    (empty / "adapter_model.bin").touch()
    with pytest.raises(Refused, match=r"but adapter_model.bin: convert it with\n  python -c"):
        open_checkpoint(base, empty)


def test_the_command_that_converts_a_pickled_adapter_gives_one_that_is_read(
    base: Path, adapter: Path
) -> None:
    torch.save(load_file(adapter / WEIGHTS), adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()
    with pytest.raises(Refused) as refused:
        open_checkpoint(base, adapter)

    exec(str(refused.value).partition('python -c "')[2].rpartition('"')[0], {})

    assert open_checkpoint(base, adapter).adapter is not None


def test_an_adapter_of_another_base_is_merged_with_a_line_in_the_log(
    base: Path, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads((adapter / CONFIG).read_text())
    for name, lines in (("org/Base", 0), ("org/other", 1)):
        (adapter / CONFIG).write_text(json.dumps({**content, "base_model_name_or_path": name}))
        caplog.clear()
        open_checkpoint(base, adapter)
        assert caplog.text.count("was trained on") == lines
