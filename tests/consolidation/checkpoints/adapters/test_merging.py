"""A base with an adapter is the model that peft makes of both."""

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import open_checkpoint
from tests.support.adapters import merged, write_adapter, write_files, write_listed
from tests.support.checkpoints import write_checkpoint
from tests.support.quantising import everything

LISTED = {
    "mixtral": r".*(q_proj|gate)\.weight|.*experts\.\d+\.w[123]\.weight",
    "olmoe": r".*(q_proj|gate)\.weight|.*experts\.\d+\.(gate|up|down)_proj\.weight",
    "qwen3_moe": r".*(q_proj|gate)\.weight|.*experts\.\d+\.(gate|up|down)_proj\.weight",
}
PARAMETERS = ["experts.gate_up_proj", "experts.down_proj"]
PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "all linear layers": ("mixtral", {"target_modules": "all-linear", "r": 3}),
    "a regular expression": ("olmoe", {"target_modules": r".*layers\.[01]\..*(q|o)_proj"}),
    "stacked experts": ("qwen3_moe", {"target_modules": [], "target_parameters": PARAMETERS}),
    "experts with their input first": (
        "gpt_oss",
        {"target_modules": [], "target_parameters": PARAMETERS},
    ),
    "one parameter of the experts": (
        "mixtral",
        {"target_modules": ["o_proj"], "target_parameters": PARAMETERS[1:], "use_rslora": True},
    ),
    "ranks and scales by pattern": (
        "olmoe",
        {
            "target_modules": ["q_proj", "k_proj"],
            "target_parameters": PARAMETERS,
            "rank_pattern": {"q_proj": 2, r"layers\.1\..*gate_up_proj": 3},
            "alpha_pattern": {"k_proj": 5, "down_proj": 7},
        },
    ),
    "whole modules, and embeddings": (
        "mixtral",
        {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head", "norm"]},
    ),
    "biases": ("qwen2_moe", {"target_modules": ["q_proj", "k_proj"], "bias": "lora_only"}),
}


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("bases")

    def write(architecture: str) -> Path:
        path = root / architecture
        return path if path.exists() else write_checkpoint(path, architecture)

    return write


@pytest.mark.parametrize("case", PEFT)
def test_an_adapter_that_peft_wrote_is_merged_as_peft_merges_it(
    base_of: Callable[[str], Path], tmp_path: Path, case: str
) -> None:
    architecture, fields = PEFT[case]
    base = base_of(architecture)
    adapter = write_adapter(base, tmp_path / "adapter", **{"r": 4, "lora_alpha": 6, **fields})

    found = everything(open_checkpoint(base, adapter))

    assert_equal(found, merged(base, adapter))
    plain = everything(open_checkpoint(base))
    assert any(not torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize("architecture", LISTED)
def test_experts_that_were_adapted_one_by_one_are_parts_of_stacked_ones(
    base_of: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    base = base_of(architecture)
    adapter = write_listed(base, tmp_path / "adapter", LISTED[architecture])

    assert_equal(everything(open_checkpoint(base, adapter)), merged(base, adapter))


@pytest.mark.parametrize(
    ("pattern", "fields"),
    [
        (r".*layers\.1\..*experts\.2\.w3\.weight", {}),
        (r".*experts\.\d+\.w[123]\.weight", {"use_rslora": True}),
        (
            r".*experts\.\d+\.w[12]\.weight",
            {"rank_pattern": {"w1": 2}, "alpha_pattern": {r"experts\.3\.w2": 3}},
        ),
    ],
)
def test_each_matrix_of_an_expert_has_its_own_factors_and_scale(
    base_of: Callable[[str], Path], tmp_path: Path, pattern: str, fields: dict[str, Any]
) -> None:
    base = base_of("mixtral")
    ranks = {"w1": 2} if fields.get("rank_pattern") else None
    adapter = write_listed(base, tmp_path / "adapter", pattern, ranks=ranks, **fields)
    by_hand = Path(shutil.copytree(base, tmp_path / "merged"))
    tensors = load_file(base / "model.safetensors")
    factors = load_file(adapter / "adapter_model.safetensors")
    for name in (name for name in tensors if re.fullmatch(pattern, name)):
        path = f"base_model.model.{name.removesuffix('.weight')}"
        left, right = factors[f"{path}.lora_B.weight"], factors[f"{path}.lora_A.weight"]
        alpha = 3 if "alpha_pattern" in fields and "experts.3.w2" in name else 8
        rank = math.sqrt(len(right)) if "use_rslora" in fields else len(right)
        tensors[name] += alpha / rank * left @ right
    save_file(tensors, by_hand / "model.safetensors", metadata={"format": "pt"})

    found = everything(open_checkpoint(base, adapter))

    assert_equal(found, everything(open_checkpoint(by_hand)))


def test_what_is_added_is_rounded_once_to_the_dtype_of_the_base(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", "qwen3_moe", dtype=torch.bfloat16)
    adapter = write_listed(base, tmp_path / "adapter", LISTED["qwen3_moe"])
    wide = write_checkpoint(tmp_path / "wide", "qwen3_moe", dtype=torch.bfloat16)
    tensors = load_file(wide / "model.safetensors")
    save_file({name: t.float() for name, t in tensors.items()}, wide / "model.safetensors")

    exact = everything(open_checkpoint(wide, adapter))

    for name, tensor in everything(open_checkpoint(base, adapter)).items():
        assert torch.equal(tensor, exact[name].to(torch.bfloat16)), name


def test_a_whole_tensor_in_another_dtype_is_rounded_to_the_dtype_of_the_base(
    tmp_path: Path,
) -> None:
    base = write_checkpoint(tmp_path / "base", "mixtral", dtype=torch.bfloat16)
    head = torch.randn(load_file(base / "model.safetensors")["lm_head.weight"].shape)
    adapter = write_files(tmp_path / "adapter", {"base_model.model.lm_head.weight": head}, {})

    found = everything(open_checkpoint(base, adapter))

    assert torch.equal(found["lm_head.weight"], head.to(torch.bfloat16))


def test_experts_have_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 1}
    base = write_checkpoint(tmp_path / "base", "mixtral", **sizes)
    ranks = {"w2": 19}
    adapter = write_listed(
        base, tmp_path / "adapter", LISTED["mixtral"], ranks=ranks, rank_pattern=ranks
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything(open_checkpoint(base, adapter))
        torch.set_num_threads(3)
        three = everything(open_checkpoint(base, adapter))
    finally:
        torch.set_num_threads(threads)

    assert all(torch.equal(one[name], three[name]) for name in one)


def test_tokenizer_and_generation_defaults_come_with_the_adapter(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", "mixtral")
    (base / "tokenizer.json").write_text("{}")
    (base / "chat_template.jinja").write_text("base")
    adapter = write_listed(base, tmp_path / "adapter", LISTED["mixtral"])
    (adapter / "chat_template.jinja").write_text("own")
    (adapter / "generation_config.json").write_text('{"temperature": 0.5}')

    found = open_checkpoint(base, adapter)

    assert dict(found.tokenizer_files()) == {
        "chat_template.jinja": adapter / "chat_template.jinja",
        "tokenizer.json": base / "tokenizer.json",
        "tokenizer_config.json": base / "tokenizer_config.json",
    }
    (adapter / "tokenizer_config.json").write_text("{}")
    assert {path.parent for _, path in found.tokenizer_files()} == {adapter}
    assert found.generation_config == {"temperature": 0.5}
    assert found.name == "base+adapter"
    assert found.fingerprint != open_checkpoint(base).fingerprint


def test_an_adapter_in_a_hugging_face_cache_is_called_by_repository_and_revision(
    tmp_path: Path,
) -> None:
    base = write_checkpoint(tmp_path / "base", "mixtral")
    cached = tmp_path / "models--org--lora" / "snapshots" / "abc"
    adapter = write_listed(base, cached, r".*q_proj\.weight")

    assert open_checkpoint(base, adapter).name == "base+org/lora@abc"
