"""Queries and keys are turned by compiled code where it does what the model's own code does."""

from importlib import import_module
from types import ModuleType

import pytest
import torch
from torch import nn

from serve_app.engine.device.native.library import Native, library
from serve_app.engine.device.native.rows import Rows
from serve_app.engine.model.rotating import ROTATES, Rotation, Turned, rotate_by_code


class CountedRows(Rows):
    num_calls = 0

    def rotate(self, *args: torch.Tensor, each_half: bool) -> Turned:
        self.num_calls += 1
        return super().rotate(*args, each_half=each_half)


@pytest.fixture
def rows() -> CountedRows:
    code = library()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    return CountedRows(Native(code, 1))


def code_of(architecture: str) -> ModuleType:
    return import_module(f"transformers.models.{architecture}.modeling_{architecture}")


def inputs(angles: int, dtype: torch.dtype = torch.bfloat16) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = (1, 7, 6, 32), (1, 7, 2, 32), (1, 7, angles), (1, 7, angles)
    q, k, cos, sin = (torch.randn(s, generator=generator).to(dtype) for s in shapes)
    return q.transpose(1, 2), k.transpose(1, 2), cos, sin


@pytest.mark.parametrize(
    ("architecture", "angles", "is_compiled"),
    [
        ("mixtral", 32, True),
        ("glm4_moe", 16, True),  # turns only the first numbers of a head
        ("gpt_oss", 16, True),  # has angles for half of them
        ("ernie4_5_moe", 32, False),  # turns neighbours
        ("cohere2_moe", 32, False),
    ],
)
def test_compiled_code_turns_what_it_turns_alike(
    rows: CountedRows, architecture: str, angles: int, is_compiled: bool
) -> None:
    original = getattr(code_of(architecture), ROTATES)
    rotation = Rotation(original, rows)
    given = inputs(angles)
    for found, wanted in zip(rotation(*given), original(*given), strict=True):
        assert torch.equal(found, wanted)
    before = rows.num_calls
    rotation(*given)
    assert rows.num_calls == before + is_compiled


def test_numbers_of_another_kind_are_turned_by_the_models_own_code(rows: CountedRows) -> None:
    original = getattr(code_of("mixtral"), ROTATES)
    given = inputs(32, torch.float32)
    found = Rotation(original, rows)(*given)
    assert rows.num_calls == 0
    assert torch.equal(found[1], original(*given)[1])


def test_only_the_modules_that_are_given_turn_by_compiled_code(rows: CountedRows) -> None:
    code = code_of("mixtral")
    config = code.MixtralConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    mine, other = (code.MixtralAttention(config, 0) for _ in range(2))
    rotate_by_code([mine, nn.Linear(1, 1)], rows)
    assert type(mine).forward is type(other).forward
    assert isinstance(mine.forward.__func__.__globals__[ROTATES], Rotation)
    assert not isinstance(other.forward.__func__.__globals__[ROTATES], Rotation)
    assert not isinstance(getattr(code, ROTATES), Rotation)
