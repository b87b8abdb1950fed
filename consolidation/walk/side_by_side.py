"""Takes several inputs through a layer side by side, with one expert in hand at a time. Keeps none.

Each input runs up to the layer's experts and ends there. Then each expert is read once and computes
the tokens of all inputs that chose it, and each input runs again with what its experts gave. What
comes before the experts is so computed twice, which takes less time than reading and widening
experts for each input, and less memory than a layer of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from consolidation.walk.asked import Asked, Pairs
from consolidation.walk.experts_forward import Given, Reached, Stop, output
from consolidation.walk.keywords import SharedKeywords
from consolidation.walk.streamed import Keywords, Layer, Seen, StreamedModel
from representation.few_ahead import few_ahead

Result = TypeVar("Result")
Mapped = Callable[..., Iterator[Result]]
"""As `map`: results come in order."""

GROUP_BYTES = 128 << 20
"""Of what inputs give to experts that are computed together."""


@contextmanager
def one_thread_each(device: torch.device, at_most: int) -> Iterator[Mapped[Any]]:
    """A `map` by threads that compute alone, so that the result does not depend on how many.

    They are as many as torch has here, and at most `at_most`. This thread computes alone meanwhile.
    Few results wait for who takes them. Any other device than the CPU is given one input after
    another: it computes with all it has.
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
            yield partial(few_ahead, pool, 2 * num_workers)
    finally:
        torch.set_num_threads(before)


Inputs = Mapping[str, Any]
"""Of the stock forward: `input_ids` (B, T), and what else it is called with."""
Put = Callable[[int, torch.Tensor], None]
Get = Callable[[int], torch.Tensor]
Compute = Callable[[Layer, Asked, Mapped[Any]], torch.Tensor]
"""Gives what a layer's experts give. -> (N, H)"""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Inputs of a model on their way through its layers.

    calls: what layers are called with, by input.   sizes: bytes of their hidden states.
    mapped: by `one_thread_each`.
    """

    model: StreamedModel
    calls: Sequence[tuple[Keywords, ...]]
    sizes: Sequence[int]
    mapped: Mapped[Any]

    @classmethod
    def entered(
        cls, model: StreamedModel, inputs: Sequence[Inputs], put: Put, mapped: Mapped[Any]
    ) -> "SideBySide":
        """Run what lies before the layers. `put` gets each input's number and hidden state.

        One after another: modules of rotary angles may keep state from one input to the next.
        """
        calls, sizes, shared = [], [], SharedKeywords()
        with model.ends():
            for number, one in enumerate(inputs):
                hidden, call = model.enter(one)
                put(number, hidden)
                calls.append(shared.of(call))
                sizes.append(hidden.nbytes)
        return cls(model, calls, sizes, mapped)

    def forwards(
        self,
        layer: Layer,
        get: Get,
        put: Put,
        *,
        seen: Callable[[int], Seen] | None = None,
        given: Put | None = None,
        compute: Compute | None = None,
    ) -> Iterator[int]:
        """Take all inputs through a filled layer, without gradients. Yields each input's number.

        get, put: inputs' hidden states (B, T, H) before and after, by number.   seen(number) is
        shown what is asked of the experts; `given` gets what they gave, (B T, H).   compute: gives
        it, of all inputs together, instead of the experts as they are.
        """
        numbers = range(len(self.calls))
        is_plain = given is None and compute is None
        if layer.experts is None or (is_plain and len(numbers) == 1):
            yield from self.mapped(partial(self._alone, layer, get, put, seen), numbers)
            return
        for group in [numbers] if compute is not None else _groups(self.sizes):
            parts = list(self.mapped(partial(self._ask, layer, get, seen), group))
            lengths = [len(part.hidden) for part in parts]
            asked = Asked.joined(parts)
            parts.clear()
            outs = (compute or self._compute)(layer, asked, self.mapped).split(lengths)
            del asked
            finish = partial(self._finish, layer, get, put, given)
            yield from self.mapped(finish, group, outs)

    @torch.no_grad()
    def _alone(
        self, layer: Layer, get: Get, put: Put, seen: Callable[[int], Seen] | None, number: int
    ) -> int:
        at = self.model.inline(layer, None if seen is None else seen(number))
        put(number, self.model.run(layer, get(number), self.calls[number], at))
        return number

    @torch.no_grad()
    def _ask(
        self, layer: Layer, get: Get, seen: Callable[[int], Seen] | None, number: int
    ) -> Asked:
        try:
            self.model.run(layer, get(number), self.calls[number], Stop())
        except Reached as reached:
            asked = reached.asked
            if seen is not None:
                assert layer.experts is not None
                seen(number)(layer.experts, asked)
            return asked
        raise self.model.refused(layer, "does not come to its experts")

    @torch.no_grad()
    def _finish(
        self, layer: Layer, get: Get, put: Put, given: Put | None, number: int, out: torch.Tensor
    ) -> int:
        if given is not None:
            given(number, out)
        put(number, self.model.run(layer, get(number), self.calls[number], Given(out)))
        return number

    def _compute(self, layer: Layer, asked: Asked, mapped: Mapped[Any]) -> torch.Tensor:
        assert layer.experts is not None
        experts = self.model.experts_module(layer.experts)
        read = self.model.expert_reader(layer.experts)

        @torch.no_grad()
        def one(pairs: Pairs) -> tuple[Pairs, torch.Tensor]:
            return pairs, output(experts, read(pairs.expert), asked.hidden[pairs.tokens])

        return asked.summed(mapped(one, asked.pairs()))


def _groups(sizes: Sequence[int]) -> Iterator[range]:
    """Neighbouring inputs, as many as have `GROUP_BYTES` together; one in any case."""
    start, taken = 0, 0
    for number, size in enumerate(sizes):
        if number > start and taken + size > GROUP_BYTES:
            yield range(start, number)
            start, taken = number, 0
        taken += size
    yield range(start, len(sizes))
