"""Runs a recurrent mixer on random numbers, to learn whether sequences can be cut and put together.

A run without data (`tracing.py`) shows what a mixer keeps. It cannot show that what it keeps is
all that it needs, that tokens after the first may come together, or that sequences of one batch do
not see each other.
"""

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from representation.architecture.errors import Unservable
from representation.architecture.states import SequenceStates, StateKey

TOLERANCE = 1e-3
"""Of a difference, relative to the largest number. Forms of one mixer differ by rounding, and
some by a bound on time steps that only one of them has."""
LENGTHS = (9, 6, 7)
"""Of the sequences that are tried, in tokens."""
LEAST, MOST = -4.0, 1.0
"""Between these lie biases, decays and time steps that are tried."""

Tensors = Mapping[StateKey, torch.Tensor]
Run = Callable[[torch.Tensor, Tensors], tuple[torch.Tensor, Tensors]]


class Found(NamedTuple):
    """What a trial has shown. wrong: why the mixer cannot be served; None if it can be.

    takes_parts: whether several tokens may come after others.
    """

    wrong: str | None
    takes_parts: bool = False


_tried: dict[tuple[object, ...], Found] = {}
"""Of mixers, by kind."""


def takes_parts(path: str, mixer: nn.Module, argument: str, width: int) -> bool:
    """Try a mixer: whether it gives the same if a prompt comes in two parts as if it comes in one.

    States of zero must give the same as none, single tokens after a prompt the same as all of them
    in one call, and several sequences the same as each alone. Each kind is tried once in a process.

    mixer: on the meta device.   argument: the name under which it takes a cache.   width: of its
    input.   Raises: Unservable if outputs or states differ.
    """
    # Numbers and texts that the module keeps are what its code depends on, besides its weights.
    plain = {k: v for k, v in vars(mixer).items() if isinstance(v, int | float | str | tuple)}
    plain.pop("layer_idx", None)
    shapes = tuple((name, tuple(t.shape)) for name, t in mixer.state_dict().items())
    key = (type(mixer), shapes, tuple(plain.items()))
    if key not in _tried:
        _tried[key] = _try(mixer, argument, width)
    found = _tried[key]
    if found.wrong is not None:
        raise Unservable(f"{path} ({type(mixer).__name__}) {found.wrong}")
    return found.takes_parts


def _try(mixer: nn.Module, argument: str, width: int) -> Found:
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        torch.manual_seed(0)
        run = _runner(filled(mixer), argument)
        inputs = [torch.randn((1, length, width)) for length in LENGTHS]
        try:
            alone = [run(x, {}) for x in inputs]
            zeroed = [run(x, _zeros(states)) for x, (_, states) in zip(inputs, alone, strict=True)]
            cut = [_cut(run, x, (5,)) for x in inputs]
            fed = [_cut(run, x, tuple(range(4, x.shape[1]))) for x in inputs]
            batched = _batched(run, inputs)
        except Exception as error:  # noqa: BLE001 - a mixer's code may raise anything
            return Found(f"cannot be tried: {error}")
    if not all(map(_alike, fed, alone)):
        return Found("gives something else when tokens come one by one; that cannot be served")
    if not all(map(_alike, batched, alone)):
        return Found("gives something else when sequences run together; that cannot be served")
    if not all(map(_alike, zeroed, alone)):
        return Found("begins with a state that is not zero; that cannot be served")
    return Found(None, takes_parts=all(map(_alike, cut, alone)))


def filled(mixer: nn.Module) -> nn.Module:
    """A copy of a module, on the CPU in float32, with random weights."""
    made = copy.deepcopy(mixer).to_empty(device="cpu").float()
    for tensor in made.state_dict().values():
        if tensor.dim() < 2:
            tensor.uniform_(LEAST, MOST)
        else:
            tensor.normal_(std=tensor[0].numel() ** -0.5)
    return made


def _runner(mixer: nn.Module, argument: str) -> Run:
    def run(x: torch.Tensor, states: Tensors) -> tuple[torch.Tensor, Tensors]:
        handed = SequenceStates(states)
        out: Any = mixer(x, **{argument: handed})
        return out, handed.tensors

    return run


def _zeros(states: Tensors) -> Tensors:
    """The state of a sequence that begins, as the engine has it."""
    return {key: torch.zeros_like(state) for key, state in states.items()}


def _cut(run: Run, x: torch.Tensor, ends: tuple[int, ...]) -> tuple[torch.Tensor, Tensors]:
    """The same in parts. x: (1, n, H)   ends: of all parts but the last"""
    outs: list[torch.Tensor] = []
    states: Tensors = {}
    for start, end in pairwise([0, *ends, x.shape[1]]):
        out, states = run(x[:, start:end], states)
        outs.append(out)
    return torch.cat(outs, dim=1), states


def _batched(run: Run, inputs: list[torch.Tensor]) -> list[tuple[torch.Tensor, Tensors]]:
    """The same with the last token of all sequences in one call."""
    begun = [run(x[:, :-1], {}) for x in inputs]
    keys = begun[0][1].keys()
    states = {key: torch.cat([each[key] for _, each in begun]) for key in keys}
    last, after = run(torch.cat([x[:, -1:] for x in inputs]), states)
    return [
        (
            torch.cat([before, last[row : row + 1]], dim=1),
            {key: state[row : row + 1] for key, state in after.items()},
        )
        for row, (before, _) in enumerate(begun)
    ]


def _alike(found: tuple[torch.Tensor, Tensors], wanted: tuple[torch.Tensor, Tensors]) -> bool:
    """Whether outputs and states are equal but for rounding."""
    pairs = [(found[0], wanted[0])] + [(found[1][key], wanted[1][key]) for key in wanted[1]]
    return all(
        x.shape == y.shape and bool((x - y).abs().max() <= TOLERANCE * y.abs().max())
        for x, y in pairs
    )
