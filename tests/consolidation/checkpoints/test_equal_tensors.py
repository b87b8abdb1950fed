from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.checkpoints.equal_tensors import (
    equal_tasks,
    find_equal,
    stand_ins_of,
    with_stand_ins,
)
from consolidation.checkpoints.family import BASE
from tests.support.adapters import write_files
from tests.support.checkpoints import write_checkpoint
from tests.support.quantising import everything

DOWN = "model.layers.0.block_sparse_moe.experts.2.w2.weight"
DOWNS = "model.layers.0.mlp.experts.down_proj"
EXPERT = "model.layers.0.mlp.experts.2"
NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def copy(source: Path, target: Path, *names: str, places: int = 1, first: int = 0) -> Checkpoint:
    """A copy of a checkpoint in which a value of each of these tensors is moved by some places."""
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    for name in names:
        tensors[name].view(-1).view(torch.int16)[first] += places
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(target)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(
        tmp_path / "source",
        "mixtral",
        num_hidden_layers=1,
        dtype=torch.bfloat16,
        tokenizer=False,
    )


def stand_ins(
    checkpoints: dict[str, Checkpoint], base: Checkpoint | None = None, *exact: str
) -> dict[str, dict[str, str]]:
    tasks = list(equal_tasks(checkpoints, base, frozenset(exact)))
    return stand_ins_of(tasks, [find_equal(task) for _, task in tasks])


def test_the_first_models_tensors_stand_for_copies_with_noise(source: Path, tmp_path: Path) -> None:
    a, b = open_checkpoint(source), copy(source, tmp_path / "b", DOWN, HEAD)
    assert stand_ins({"b": b, "a": a}) == {"b": {EXPERT: "a", HEAD: "a"}}
    read = with_stand_ins(b, {EXPERT: "a", HEAD: "a"}, {"a": a, "b": b})
    wanted, found, own = everything(a), everything(read), everything(b)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    assert not torch.equal(own[HEAD], wanted[HEAD])


def test_what_is_the_same_to_the_bit_needs_no_stand_in(source: Path, tmp_path: Path) -> None:
    assert stand_ins({"a": open_checkpoint(source), "b": copy(source, tmp_path / "b")}) == {}


def test_a_larger_difference_stays(source: Path, tmp_path: Path) -> None:
    one = open_checkpoint(source)
    assert stand_ins({"a": one, "b": copy(source, tmp_path / "b", DOWN, HEAD, places=2)}) == {}
    # One value of 32 is more than one percent of a norm.
    assert stand_ins({"a": one, "c": copy(source, tmp_path / "c", NORM)}) == {}


def test_the_base_stands_first_and_exact_models_before_others(source: Path, tmp_path: Path) -> None:
    models = {"a": open_checkpoint(source), "b": copy(source, tmp_path / "b", HEAD)}
    base = copy(source, tmp_path / "base", HEAD, first=5)
    assert stand_ins(models, base) == {"a": {HEAD: BASE}, "b": {HEAD: BASE}}
    assert stand_ins(models, None, "b") == {"a": {HEAD: "b"}}
    assert stand_ins(models, base, "a", "b") == {}


def test_small_steps_do_not_add_up(source: Path, tmp_path: Path) -> None:
    """b is one place from a, and c one place from b: c is two from a, which stands for b."""
    models = {
        "a": open_checkpoint(source),
        "b": copy(source, tmp_path / "b", HEAD, places=1),
        "c": copy(source, tmp_path / "c", HEAD, places=2),
    }
    assert stand_ins(models) == {"b": {HEAD: "a"}}


def test_a_base_in_another_dtype_stands_for_nothing(source: Path, tmp_path: Path) -> None:
    wide = write_checkpoint(tmp_path / "wide", "mixtral", num_hidden_layers=1, tokenizer=False)
    models = {"a": open_checkpoint(source), "b": copy(source, tmp_path / "b", HEAD)}
    assert stand_ins(models, open_checkpoint(wide)) == {"b": {HEAD: "a"}}


def test_what_an_adapter_changes_a_little_is_not_noise(source: Path, tmp_path: Path) -> None:
    matrix = load_file(source / "model.safetensors")[DOWN]
    left, right = torch.zeros(len(matrix), 4), torch.zeros(4, matrix.shape[1])
    next_one = (matrix[:1, :1].view(torch.int16) + 1).view(torch.bfloat16)
    left[0, 0], right[0, 0] = next_one[0, 0].float() - matrix[0, 0].float(), 1.0
    path = f"base_model.model.{DOWN.removesuffix('.weight')}"
    factors = {f"{path}.lora_A.weight": right, f"{path}.lora_B.weight": left}
    adapter = write_files(tmp_path / "adapter", factors, {"r": 4, "lora_alpha": 4})
    base, adapted = open_checkpoint(source), open_checkpoint(source, adapter)

    assert not torch.equal(everything(base)[DOWNS], everything(adapted)[DOWNS])
    assert stand_ins({"base": base, "adapted": adapted}) == {}
