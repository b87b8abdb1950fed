"""Whether a fast way to compute something gives the same as the plain way, within tolerances.

Knows nothing about what is computed. How close answers must be to a release's golden prompts is
part of the release, and defined there.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

TOLERANCES = {
    "leaf": {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3},
    "attention": {torch.float32: 1e-4, torch.bfloat16: 2e-2},
    "mixer": {torch.float32: 1e-3, torch.bfloat16: 5e-2},
    "experts": {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3},
    "captured step": {torch.float32: 1e-3, torch.bfloat16: 0.1},
}
"""By what is tried and the dtype of its result. For a leaf: relative to an element, plus ten times
as much. For attention: of an element. For mixers and experts: of an element, relative to the
largest. For a captured step: of a row, relative to its norm.
"""

T = TypeVar("T")


def first_equal(
    forms: Iterable[T], difference: Callable[[T], str | None], refused: Callable[[T, str], None]
) -> T | None:
    """The first form that does not differ from the plain one; None if all do.

    difference: how a form differs, in words; None if it does not.
    refused: called with each form that differs, and how.
    """
    for form in forms:
        found = difference(form)
        if found is None:
            return form
        refused(form, found)
    return None


def leaf_difference(found: torch.Tensor, wanted: torch.Tensor) -> str | None:
    """How the output of a leaf differs. Whole numbers are choices, and must be equal."""
    if found.shape != wanted.shape:
        return _other_shape(found, wanted)
    if found.dtype != wanted.dtype:
        return f"it gives {found.dtype}, not {wanted.dtype}"
    if not found.is_floating_point():
        return None if torch.equal(found, wanted) else "it makes different choices"
    tolerance = TOLERANCES["leaf"][found.dtype]
    if torch.allclose(found, wanted, rtol=tolerance, atol=tolerance * 10):
        return None
    return f"it differs by {_worst(found, wanted):.3g}"


def mixer_difference(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> str | None:
    """How the output or the state of a form of a mixer differs from that of its own code.

    dtype: of its input; a state in float32 is made of numbers that were rounded to it.
    """
    if found.shape != wanted.shape:
        return _other_shape(found, wanted)
    if found.dtype != wanted.dtype:
        return f"it gives {found.dtype}, not {wanted.dtype}"
    worst = _worst(found, wanted)
    if worst <= TOLERANCES["mixer"][dtype] * float(wanted.abs().max()):
        return None
    return f"it differs by {worst:.3g}"


def attention_difference(found: torch.Tensor, wanted: torch.Tensor, plain: str) -> str | None:
    """How the output of a form of attention differs from that of the form named `plain`."""
    if found.shape != wanted.shape:
        return _other_shape(found, wanted)
    worst = _worst(found, wanted)
    if worst <= TOLERANCES["attention"][wanted.dtype]:
        return None
    return f"it differs from {plain!r} by {worst:.3g} on random input"


def experts_difference(found: torch.Tensor, wanted: torch.Tensor) -> str | None:
    """How the output of a layer's experts differs."""
    if found.shape != wanted.shape:
        return _other_shape(found, wanted)
    worst = _worst(found, wanted) / max(1e-6, float(wanted.abs().max()))
    if worst <= TOLERANCES["experts"][wanted.dtype]:
        return None
    return f"it differs by {worst:.3g} of the largest number on random input"


def logits_difference(found: torch.Tensor, wanted: torch.Tensor) -> str | None:
    """How the logits of a captured step differ.

    found, wanted: (n, V), -inf for tokens that a model does not have
    """
    absent = torch.isneginf(wanted)
    if not torch.equal(absent, torch.isneginf(found)):
        return "it has different tokens"
    there = wanted.float().masked_fill(absent, 0)  # (n, V)
    norms = there.norm(dim=-1).clamp(min=1e-6)  # (n,)
    distances = (found.float().masked_fill(absent, 0) - there).norm(dim=-1) / norms  # (n,)
    worst = float(distances.nan_to_num(nan=float("inf")).max())
    if worst <= TOLERANCES["captured step"][wanted.dtype]:
        return None
    return f"a row of logits differs by {worst:.3g} of its norm"


def _worst(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference of an element. NaN gives NaN, which is within no tolerance."""
    return float((found.float() - wanted.float()).abs().max())


def _other_shape(found: torch.Tensor, wanted: torch.Tensor) -> str:
    return f"it gives {tuple(found.shape)}, not {tuple(wanted.shape)}"
