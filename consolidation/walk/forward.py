"""Takes inputs through a streamed model, layer by layer, several at a time. Scores nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from consolidation.walk.course import FILLING
from consolidation.walk.keywords import SharedKeywords
from consolidation.walk.scratch import Scratch
from consolidation.walk.streamed import Keywords, Layer, Seen, StreamedModel
from representation.architecture.config import vocabulary_size

Inputs = Mapping[str, Any]
"""Of the stock forward: `input_ids` (B, T), and what else it is called with."""
Result = TypeVar("Result")

HELD_BYTES = 256 << 20
"""Hidden states that stay in memory; what is beyond them lies in a file."""
LOGITS_BYTES = 512 << 20
"""Logits in memory at a time, unless one input has more."""


Mapped = Callable[..., Iterator[Result]]
"""As `map`."""


@contextmanager
def one_thread_each(device: torch.device, at_most: int) -> Iterator[Mapped[Any]]:
    """A `map` by threads that compute alone, so that the result does not depend on how many.

    They are as many as torch has here, and at most `at_most`. This thread computes alone meanwhile.
    Any other device than the CPU is given one input after another: it computes with all it has.
    """
    if device.type != "cpu":
        yield map
        return
    before = torch.get_num_threads()
    num_workers = max(1, min(before, at_most))
    try:
        with ThreadPoolExecutor(
            num_workers, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            torch.set_num_threads(1)
            yield pool.map
    finally:
        torch.set_num_threads(before)


def enter_each(
    model: StreamedModel, inputs: Sequence[Inputs], keep: Callable[[int, torch.Tensor], None]
) -> list[tuple[Keywords, ...]]:
    """Run what lies before the layers. `keep` gets each input's number and hidden state.

    One after another: modules of rotary angles may keep state from one input to the next.
    """
    calls, shared = [], SharedKeywords()
    with model.ends():
        for number, one in enumerate(inputs):
            hidden, call = model.enter(one)
            keep(number, hidden)
            calls.append(shared.of(call))
    return calls


def forward_each(
    model: StreamedModel,
    inputs: Sequence[Inputs],
    function: Callable[[int, torch.Tensor], Result],
    seen: Callable[[int], Seen] | None = None,
) -> Iterator[Result]:
    """Yield `function` of each input's number and logits (B, T, V), in order.

    Each layer is filled once, and all inputs go through it, several at a time with one thread
    each; between layers they are set aside. `seen(number)` is shown what the experts get of it.
    """

    def through(layer: Layer, number: int) -> None:
        with torch.no_grad():
            hidden = states.get(number)
            watch = None if seen is None else seen(number)
            states.put(number, model.run(layer, hidden, calls[number], watch))

    def out(number: int) -> Result:
        with torch.no_grad():
            return function(number, model.leave(states.get(number).to(model.device)))

    numbers, at_once = range(len(inputs)), _at_once(model, inputs)
    parts = len(model.layers) + 1  # what comes after the layers counts as one more
    shares = [one["input_ids"].numel() / parts for one in inputs]
    each = one_thread_each(model.device, len(inputs))
    with Scratch(HELD_BYTES) as states, each as mapped:
        calls = enter_each(model, inputs, states.put)
        for layer in model.filled():
            for number, _ in enumerate(mapped(through, [layer] * len(inputs), numbers)):
                model.passed(shares[number])
            model.passed(FILLING / len(model.layers))
        with model.ends():
            for start in range(0, len(inputs), at_once):
                several = numbers[start : start + at_once]
                for number, result in zip(several, mapped(out, several), strict=True):
                    model.passed(shares[number])
                    yield result


def _at_once(model: StreamedModel, inputs: Sequence[Inputs]) -> int:
    """How many inputs may have logits in memory, with as much again for what is made of them."""
    longest: int = max(one["input_ids"].numel() for one in inputs)
    one_input = 2 * 4 * longest * vocabulary_size(model.stock.config)
    return max(1, min(torch.get_num_threads(), LOGITS_BYTES // one_input))
