"""Turns queries and keys by their positions in compiled code, where that gives the same.

Modules of attention call a function of their file for it, some twenty operations of torch. Code of
another kind of rotation keeps its own function. `rotary.py` has the angles.
"""

import logging
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from serve_app.engine.device.native.rows import Rows
from serve_app.engine.device.trial import first_equal, leaf_difference

logger = logging.getLogger(__name__)
ROTATES = "apply_rotary_pos_emb"
"""What attention modules of transformers call the function."""
PROBE_TOKENS = 5
Turned = tuple[torch.Tensor, torch.Tensor]
Rotates = Callable[..., Turned]


class Rotation:
    """A file's function, or compiled code for numbers of the shapes for which it proves equal."""

    def __init__(self, original: Rotates, rows: Rows) -> None:
        self._original = original
        self._rows = rows
        self._halves: dict[tuple[int, ...], bool | None] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """queries, keys: (1, heads, T, D)   cos, sin: (1, T, A)  ->  the same shapes

        Some files' functions take other arguments: those are given to the function.
        """
        if kwargs or len(args) != 4 or not suits(*args):
            return self._original(*args, **kwargs)
        queries, keys, cos, sin = args
        kind = (queries.shape[1], keys.shape[1], keys.shape[3], cos.shape[2])
        if kind not in self._halves:
            self._halves[kind] = self._proved(*kind)
        each_half = self._halves[kind]
        if each_half is None:
            return self._original(queries, keys, cos, sin)
        return self._rows.rotate(queries, keys, cos, sin, each_half=each_half)

    def _proved(self, query_heads: int, kv_heads: int, dim: int, angles: int) -> bool | None:
        """Whether there are angles for each half alone; None if the compiled code differs."""
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(torch.bfloat16)

        heads = random(1, query_heads, PROBE_TOKENS, dim), random(1, kv_heads, PROBE_TOKENS, dim)
        given = *heads, random(1, PROBE_TOKENS, angles), random(1, PROBE_TOKENS, angles)
        wanted = self._original(*given)

        def difference(each_half: bool) -> str | None:
            found = self._rows.rotate(*given, each_half=each_half)
            return next(filter(None, map(leaf_difference, found, wanted)), None)

        forms = [each for each in (False, True) if (angles << each) <= dim and not angles % 2]
        return first_equal(
            forms, difference, lambda _, why: logger.info("%s, compiled: %s", ROTATES, why)
        )


def suits(queries: torch.Tensor, keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Whether the compiled code can take these."""
    given = queries, keys, cos, sin
    return (
        [x.dim() for x in given] == [4, 4, 3, 3]
        and all(x.dtype is torch.bfloat16 and x.stride(-1) == 1 for x in given)
        and queries.shape[0] == keys.shape[0] == cos.shape[0] == 1
        and queries.shape[2:] == keys.shape[2:]
        and cos.shape == sin.shape
        and cos.stride() == sin.stride()
    )


def rotate_by_code(modules: Iterable[nn.Module], rows: Rows) -> None:
    """Let attention modules turn queries and keys by compiled code where it proves equal.

    Each gets its own `forward` again, in which the name of the function means another.
    """
    made: dict[Rotates, Rotation] = {}
    for module in modules:
        forward = type(module).forward
        if not isinstance(forward, FunctionType) or ROTATES not in forward.__code__.co_names:
            continue
        original = forward.__globals__[ROTATES]
        rotation = made.setdefault(original, Rotation(original, rows))
        bound = FunctionType(
            forward.__code__,
            {**forward.__globals__, ROTATES: rotation},
            forward.__name__,
            forward.__defaults__,
            forward.__closure__,
        )
        bound.__kwdefaults__ = forward.__kwdefaults__
        module.forward = MethodType(bound, module)
