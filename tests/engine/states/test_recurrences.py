"""Compiled recurrences give what transformers' own functions give, for any sizes."""

from typing import Any

import pytest
import torch
from transformers.models.granitemoehybrid.modeling_granitemoehybrid import (
    mamba2_chunk_scan,
    mamba2_selective_state_update,
)
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from serve_app.engine.device.native.library import Native, library
from serve_app.engine.device.native.recurrent import Recurrent
from serve_app.engine.states.recurrences import DeltaRule, StateSpace
from serve_app.engine.step.step_states import Singles, StatePiece, StepStates


def compiled() -> Recurrent:
    code = library()
    if code is None:
        pytest.skip("the compiled code does not run here")
    return Recurrent(Native(code, 2))


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


def step_of(lengths: dict[int, int]) -> StepStates:
    """A step with so many tokens of the sequences in these rows."""
    pieces, start = [], 0
    for row, length in lengths.items():
        pieces.append(StatePiece(row, 0, start, start + length))
        start += length
    singles = [piece for piece in pieces if piece.length == 1]
    found = Singles(
        torch.tensor([piece.row for piece in singles]),
        torch.tensor([piece.start for piece in singles]),
        is_all=len(singles) == len(pieces),
    )
    longer = tuple(piece for piece in pieces if piece.length > 1)
    prompts = torch.zeros(start, dtype=torch.bool)
    return StepStates(found if singles else None, longer, tuple(pieces), (), prompts)


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize(
    ("key_heads", "heads", "height", "width"), [(2, 4, 8, 12), (1, 3, 16, 7), (4, 4, 5, 1030)]
)
@pytest.mark.parametrize("lengths", [{3: 1, 0: 1, 4: 1}, {2: 1, 1: 5, 0: 1}, {1: 70}])
def test_a_delta_rule_goes_on_from_each_sequences_state(
    key_heads: int,
    heads: int,
    height: int,
    width: int,
    lengths: dict[int, int],
    is_compiled: bool,
) -> None:
    torch.manual_seed(0)
    native = compiled() if is_compiled else None
    rule = DeltaRule(torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule, native)
    kept, states = random(5, heads, height, width), step_of(lengths)
    count = states.pieces[-1].end
    query, key = random(1, count, key_heads, height), random(1, count, key_heads, height)
    value, beta = random(1, count, heads, width), random(1, count, heads).sigmoid()
    decay = -random(1, count, heads).exp()
    wanted, before = kept.clone(), kept.clone()
    got = rule.run(
        states, kept, query, key, value, g=decay, beta=beta, use_qk_l2norm_in_kernel=True
    )
    for row, _, start, end in states.pieces:
        part = slice(start, end)
        out, after = torch_recurrent_gated_delta_rule(
            query[:, part],
            key[:, part],
            value[:, part],
            g=decay[:, part],
            beta=beta[:, part],
            initial_state=before[row : row + 1],
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
        assert torch.allclose(got[:, part], out, atol=1e-4)
        wanted[row] = after[0]
    assert torch.allclose(kept, wanted, atol=1e-4)


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize(("groups", "heads", "dim", "size"), [(2, 4, 16, 8), (1, 3, 5, 37)])
@pytest.mark.parametrize("lengths", [{3: 1, 0: 1, 4: 1}, {2: 1, 1: 5, 0: 1}])
def test_a_state_space_goes_on_from_each_sequences_state(
    groups: int, heads: int, dim: int, size: int, lengths: dict[int, int], is_compiled: bool
) -> None:
    torch.manual_seed(0)
    space = StateSpace(mamba2_chunk_scan, compiled() if is_compiled else None)
    kept, states = random(5, heads, dim, size), step_of(lengths)
    count = states.pieces[-1].end
    x, dt = random(1, count, heads, dim), random(1, count, heads)
    b, c = random(1, count, groups, size), random(1, count, groups, size)
    decay, skip, bias = -random(heads).exp(), random(heads), random(heads)
    wanted = kept.clone()
    got = space.run(
        states,
        kept,
        x,
        dt,
        decay,
        b,
        c,
        chunk_size=4,
        D=skip,
        dt_bias=bias,
        dt_softplus=True,
        dt_limit=(0.5, 1.0),
    )
    for row, _, start, end in states.pieces:
        state = wanted[row : row + 1]
        for at in range(start, end):  # which are of answers, so that nothing is bounded
            out = mamba2_selective_state_update(
                state,
                x[:, at],
                dt[:, at, :, None].expand(-1, -1, dim),
                decay[:, None, None].expand(-1, dim, size),
                b[:, at],
                c[:, at],
                skip[:, None].expand(-1, dim),
                dt_bias=bias[:, None].expand(-1, dim),
                dt_softplus=True,
            )
            assert torch.allclose(got[:, at], out, atol=1e-4)
    assert torch.allclose(kept, wanted, atol=1e-4)


def test_time_steps_of_a_prompt_are_bounded_as_in_transformers() -> None:
    torch.manual_seed(0)
    states = step_of({0: 6})
    states.prompts.fill_(True)
    x, dt, b = random(1, 6, 2, 4), random(1, 6, 2), random(1, 6, 1, 3)
    given: dict[str, Any] = {
        "D": random(2),
        "dt_bias": random(2),
        "dt_softplus": True,
        "dt_limit": (0.5, 1.0),
    }
    kept = torch.zeros(1, 2, 4, 3)
    wanted, after = mamba2_chunk_scan(
        x, dt, torch.tensor([-1.0, -2.0]), b, b, chunk_size=4, return_final_states=True, **given
    )
    space = StateSpace(mamba2_chunk_scan, None)
    got = space.run(states, kept, x, dt, torch.tensor([-1.0, -2.0]), b, b, chunk_size=4, **given)
    assert torch.allclose(got, wanted, atol=1e-5)
    assert torch.allclose(kept, after, atol=1e-5)
