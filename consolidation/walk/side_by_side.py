"""Takes several inputs through a model side by side, with one expert in hand at a time.

Each input runs up to a layer's experts and ends there. Then each expert is read once and computes
the tokens of all inputs that chose it, and each input runs again with what its experts gave. What
comes before the experts is so computed twice, which takes less time than reading and widening
experts for each input, and less memory than a layer of them.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from consolidation.walk.asked import Asked, Pairs
from consolidation.walk.experts_forward import Given, Inline, Reached, Stop, output
from consolidation.walk.keywords import SharedKeywords
from consolidation.walk.layers import ENCODED, Keywords, Layer
from consolidation.walk.scratch import Scratch
from consolidation.walk.streamed import Seen, StreamedModel
from representation.few_ahead import few_ahead

Result = TypeVar("Result")
Mapped = Callable[..., Iterator[Result]]
"""As `map`: results come in order."""

GROUP_BYTES = 128 << 20
"""Of what inputs give to experts that are computed together."""
HIDDEN, EXPERTS, LEFT = "hidden", "experts", "left"
"""Set aside under these names, beside `ENCODED`, with an input's number: hidden states before a
layer, what its experts gave, and what came out of the encoder's last layer.
"""


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
"""Of the stock forward: `input_ids` (B, T), and what else it is called with. An encoder–decoder has
those of its encoder, and `decoder_input_ids`. With `encoder_outputs`, its encoder is left out.
"""
Compute = Callable[[Layer, Asked, Mapped[Any]], torch.Tensor]
"""Gives what a layer's experts give. -> (N, H)"""


@dataclass(slots=True)
class SideBySide:
    """Inputs of a model on their way through its layers. Between layers they are set aside.

    states: where.   keeps: what every layer was given stays there, and what its experts gave, for
    who goes back.   mapped: by `one_thread_each`.
    """

    model: StreamedModel
    inputs: Sequence[Inputs]
    states: Scratch
    mapped: Mapped[Any]
    keeps: bool = False
    _calls: list[dict[int, Keywords]] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)

    def layers(self) -> Iterator[Layer]:
        """Each layer in turn, filled, when all inputs are before it."""
        self._calls = [{} for _ in self.inputs]
        for in_list in range("encoder_outputs" in self.inputs[0], len(self.model.lists)):
            self._enter(in_list)
            yield from self.model.filled(in_list)

    def before(self, layer: Layer, number: int) -> torch.Tensor:
        """What a layer is given of an input: (B, T, H), on the host."""
        return self.states.get(self._before(layer.number, number))

    def given(self, layer: Layer, number: int) -> torch.Tensor:
        """What a layer's experts gave for an input: (B T, H), on the host; where it `keeps`."""
        return self.states.get((EXPERTS, layer.number, number))

    def encoded(self, number: int) -> torch.Tensor:
        """What the encoder gave for an input: (B, E, H), on the host."""
        return self.states.get((ENCODED, number))

    def left(self, number: int) -> torch.Tensor:
        """What came out of the encoder's last layer: (B, E, H), on the host; where it `keeps`."""
        return self.states.get((LEFT, number))

    def out(self, number: int) -> torch.Tensor:
        """What came out of the last layer for an input: (B, T, H), on the host."""
        return self.states.get(self._before(len(self.model.layers), number))

    def run(
        self,
        layer: Layer,
        number: int,
        hidden: torch.Tensor,
        at: Inline | Stop | Given,
        encoded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run a filled layer with an input. encoded: in place of what the encoder gave."""
        call = self._calls[number][layer.number]
        if layer.in_list:
            if encoded is None:
                encoded = self.encoded(number).to(self.model.device)
            call = {**call, ENCODED: encoded}
        return self.model.run(layer, hidden, call, at)

    def forwards(
        self,
        layer: Layer,
        *,
        seen: Callable[[int], Seen] | None = None,
        compute: Compute | None = None,
    ) -> Iterator[int]:
        """Take all inputs through a filled layer, without gradients. Yields each input's number.

        seen(number) is shown what is asked of the experts.   compute: gives what they give, of all
        inputs together, instead of the experts as they are.
        """
        numbers = range(len(self.inputs))
        is_plain = not self.keeps and compute is None
        if layer.experts is None or (is_plain and len(numbers) == 1):
            yield from self.mapped(partial(self._alone, layer, seen), numbers)
            return
        for group in [numbers] if compute is not None else _groups(self._sizes):
            parts = list(self.mapped(partial(self._ask, layer, seen), group))
            lengths = [len(part.hidden) for part in parts]
            asked = Asked.joined(parts)
            parts.clear()
            outs = (compute or self._compute)(layer, asked, self.mapped).split(lengths)
            del asked
            yield from self.mapped(partial(self._finish, layer), group, outs)

    def _enter(self, in_list: int) -> None:
        """Run what lies before a list of layers.

        One input after another: modules of rotary angles may keep state from one to the next.
        """
        first = self.model.lists[in_list][0].number
        shared = SharedKeywords()
        self._sizes = []
        with self.model.ends():
            for number, one in enumerate(self.inputs):
                key, out = self._before(first, number), None
                if in_list and "encoder_outputs" not in one:
                    out = self.states.get(key).to(self.model.device)
                    if self.keeps:
                        self.states.put((LEFT, number), out)
                entered = self.model.enter(one, in_list, out)
                if entered.encoded is not None:
                    self.states.put((ENCODED, number), entered.encoded)
                self.states.put(key, entered.hidden)
                self._calls[number].update(enumerate(shared.of(entered.calls), first))
                self._sizes.append(entered.hidden.nbytes)

    def _before(self, layer: int, number: int) -> Hashable:
        """Under what an input's hidden states before a layer are set aside."""
        return (HIDDEN, layer if self.keeps else None, number)

    def _put_after(self, layer: Layer, number: int, hidden: torch.Tensor) -> None:
        self.states.put(self._before(layer.number + 1, number), hidden)

    @torch.no_grad()
    def _alone(self, layer: Layer, seen: Callable[[int], Seen] | None, number: int) -> int:
        at = self.model.inline(layer, None if seen is None else seen(number))
        self._put_after(layer, number, self.run(layer, number, self.before(layer, number), at))
        return number

    @torch.no_grad()
    def _ask(self, layer: Layer, seen: Callable[[int], Seen] | None, number: int) -> Asked:
        try:
            self.run(layer, number, self.before(layer, number), Stop())
        except Reached as reached:
            asked = reached.asked
            if seen is not None:
                assert layer.experts is not None
                seen(number)(layer.experts, asked)
            return asked
        raise self.model.refused(layer, "does not come to its experts")

    @torch.no_grad()
    def _finish(self, layer: Layer, number: int, out: torch.Tensor) -> int:
        if self.keeps:
            self.states.put((EXPERTS, layer.number, number), out)
        hidden = self.run(layer, number, self.before(layer, number), Given(out))
        self._put_after(layer, number, hidden)
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
