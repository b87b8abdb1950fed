"""Takes inputs through a streamed model, layer by layer, several at a time. Scores nothing."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from consolidation.walk.course import FILLING
from consolidation.walk.scratch import Scratch
from consolidation.walk.side_by_side import Inputs, SideBySide, one_thread_each
from consolidation.walk.streamed import Seen, StreamedModel
from representation.architecture.config import vocabulary_size

Result = TypeVar("Result")

HELD_BYTES = 256 << 20
"""Hidden states that stay in memory; what is beyond them lies in a file."""
LOGITS_BYTES = 512 << 20
"""Logits in memory at a time, unless one input has more."""

WHOLE = slice(None)


def forward_each(
    model: StreamedModel,
    inputs: Sequence[Inputs],
    function: Callable[[int, torch.Tensor], Result],
    seen: Callable[[int], Seen] | None = None,
    positions: Callable[[int], slice] = lambda _: WHOLE,
) -> Iterator[Result]:
    """Yield `function` of each input's number and logits (B, n, V), in order.

    positions: of the T of an input, by its number, those n that have logits.   `seen(number)` is
    shown what is asked of experts for it. An input with a cache of keys and values goes alone.
    """
    each = one_thread_each(model.device, len(inputs))
    with Scratch(HELD_BYTES) as states, each as mapped:
        together = SideBySide(model, inputs, states, mapped)
        through_layers(together, seen)

        def out(number: int) -> Result:
            with torch.no_grad():
                hidden = together.out(number)[:, positions(number)].to(model.device)
                return function(number, model.leave(hidden))

        with model.ends():
            at_once = _at_once(model, inputs, positions)
            for start in range(0, len(inputs), at_once):
                several = range(start, min(start + at_once, len(inputs)))
                for number, result in zip(several, mapped(out, several), strict=True):
                    model.passed(share(model, inputs[number]))
                    yield result


def through_layers(together: SideBySide, seen: Callable[[int], Seen] | None = None) -> None:
    """Take inputs through all layers. Each layer is filled once, and all of them go through it."""
    model, inputs = together.model, together.inputs
    for layer in together.layers():
        for number in together.forwards(layer, seen=seen):
            model.passed(share(model, inputs[number], layer.in_list))
        model.passed(FILLING / len(model.layers))


def share(model: StreamedModel, one: Inputs, in_list: int = -1) -> float:
    """Of an input's work, as `walk/course.py` counts it, that of a layer of a list.

    What comes after the layers counts as one more.
    """
    return _num_tokens(one, in_list) / (len(model.layers) + 1)


def _num_tokens(one: Inputs, in_list: int = -1) -> int:
    """How many tokens of an input go through a list of layers."""
    ids = [one[name] for name in ("input_ids", "decoder_input_ids") if name in one]
    found: int = ids[min(in_list, len(ids) - 1)].numel()
    return found


def _at_once(
    model: StreamedModel, inputs: Sequence[Inputs], positions: Callable[[int], slice]
) -> int:
    """How many inputs may have logits in memory, with as much again for what is made of them."""
    longest = max(
        len(range(_num_tokens(one))[positions(number)]) for number, one in enumerate(inputs)
    )
    one_input = 2 * 4 * longest * vocabulary_size(model.stock.config)
    return max(1, min(torch.get_num_threads(), LOGITS_BYTES // max(1, one_input)))
