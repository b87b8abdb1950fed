"""Carries gradients back through layers, and adds up what their experts were given. Keeps none.

A layer runs again up to its experts and, with what they gave on the way forwards, beyond them.
Then each expert is read once, and computes the tokens of all inputs again, forwards and backwards.
Every layer of a decoder is given what the encoder gave, so gradients of that are added up, and go
back through the encoder's layers after those of the decoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from consolidation.statistics.moments import Record, Sums
from consolidation.walk.asked import Asked, Pairs
from consolidation.walk.experts_forward import Given, first_name, gradients
from consolidation.walk.layers import Layer
from consolidation.walk.side_by_side import SideBySide

GRADIENT, OF_ENCODED = "gradient", "gradient of encoded"
"""Set aside under these names, with an input's number: the gradients of what comes out of the layer
that was last gone back through, and of what the encoder gave.
"""


@dataclass(slots=True)
class _Leaves:
    """What a layer is given of an input. encoded: None outside a decoder with an encoder."""

    hidden: torch.Tensor
    encoded: torch.Tensor | None


@dataclass(slots=True)
class _Half:
    """An input that went through the layer, and back to what its experts gave.

    outer: (T, H), the gradient of that.
    """

    leaves: _Leaves
    out: torch.Tensor
    asked: Asked
    outer: torch.Tensor


@dataclass(frozen=True, slots=True)
class GoingBack:
    """Inputs that went through all layers of a model, and go back. together: which `keeps`."""

    together: SideBySide

    def begin(self, number: int, gradient: torch.Tensor) -> None:
        """Set aside the gradient of what came out of the last layer for an input."""
        self.together.states.put((GRADIENT, number), gradient)

    def layers(self) -> Iterator[Layer]:
        """Each layer from the last to the first, filled, to go back through."""
        model, numbers = self.together.model, range(len(self.together.inputs))
        for in_list in reversed(range(len(model.lists))):
            if in_list:
                for number in numbers:
                    self._add_of_encoded(number, None)
            yield from model.filled(in_list, backwards=True)
            if in_list:
                with model.ends():
                    for number in numbers:
                        self._to_encoder(in_list, number)

    def through_layer(self, layer: Layer) -> None:
        """Replace the gradients of what comes out of a filled layer by those of what it is given.

        Of one without experts.
        """
        together = self.together

        def back(number: int) -> None:
            leaves = self._leaves(layer, number)
            at = together.model.inline(layer)
            out = together.run(layer, number, leaves.hidden, at, leaves.encoded)
            out.backward(self._gradient(number))
            self._put_gradients(number, leaves)

        for _ in together.mapped(back, range(len(together.inputs))):
            pass

    def through_experts(
        self, layer: Layer, real: torch.Tensor, record: Record, work: float
    ) -> None:
        """The same for a layer of experts. Records what they were given.

        real: (N,), which of the tokens of all inputs, one after another, count   work: all that
        this is, as `walk/course.py` counts it; the model is told of it.
        """
        together = self.together
        numbers = range(len(together.inputs))
        halves: list[_Half | None] = list(together.mapped(partial(self._half, layer), numbers))

        def end(number: int, of_hidden: torch.Tensor, of_weights: torch.Tensor) -> None:
            half, halves[number] = halves[number], None
            assert half is not None
            ends = [
                (half.out, self._gradient(number)),
                (half.asked.hidden, of_hidden),
                (half.asked.weights, of_weights),
            ]
            ends = [pair for pair in ends if pair[0].requires_grad]
            torch.autograd.backward([one for one, _ in ends], [back for _, back in ends])
            self._put_gradients(number, half.leaves)

        lengths = [len(half.outer) for half in halves if half is not None]
        there = [half for half in halves if half is not None]
        found = _through_experts(together, layer, there, real, record, work)
        there.clear()
        parts = (one.split(lengths) for one in found)
        for _ in together.mapped(end, numbers, *parts):
            pass

    def _half(self, layer: Layer, number: int) -> _Half:
        together = self.together
        leaves = self._leaves(layer, number)
        given = Given(leaf_of(together.given(layer, number), together.model.device))
        out = together.run(layer, number, leaves.hidden, given, leaves.encoded)
        if given.asked is None:
            raise together.model.refused(layer, "does not come to its experts")
        gradient = self._gradient(number)
        (outer,) = torch.autograd.grad(out, given.out, gradient, retain_graph=True)
        return _Half(leaves, out, given.asked, outer)

    def _leaves(self, layer: Layer, number: int) -> _Leaves:
        together, device = self.together, self.together.model.device
        encoded = leaf_of(together.encoded(number), device) if layer.in_list else None
        return _Leaves(leaf_of(together.before(layer, number), device), encoded)

    def _gradient(self, number: int) -> torch.Tensor:
        return self.together.states.get((GRADIENT, number)).to(self.together.model.device)

    def _put_gradients(self, number: int, leaves: _Leaves) -> None:
        self.together.states.put((GRADIENT, number), gradient_of(leaves.hidden))
        if leaves.encoded is not None:
            self._add_of_encoded(number, gradient_of(leaves.encoded))

    def _add_of_encoded(self, number: int, gradient: torch.Tensor | None) -> None:
        """Add to the gradient of what the encoder gave. None: it is 0 so far."""
        states, key = self.together.states, (OF_ENCODED, number)
        if gradient is None:
            states.put(key, torch.zeros_like(self.together.encoded(number)))
        else:
            states.put(key, states.get(key) + gradient.cpu())

    def _to_encoder(self, in_list: int, number: int) -> None:
        """Replace an input's gradient by that of what came out of the encoder's last layer."""
        together = self.together
        leaf = leaf_of(together.left(number), together.model.device)
        entered = together.model.enter(together.inputs[number], in_list, leaf)
        assert entered.encoded is not None
        of_encoded = together.states.get((OF_ENCODED, number))
        entered.encoded.backward(of_encoded.to(together.model.device))
        together.states.put((GRADIENT, number), gradient_of(leaf))


@torch.no_grad()
def _through_experts(
    together: SideBySide,
    layer: Layer,
    halves: list[_Half],
    real: torch.Tensor,
    record: Record,
    work: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of what experts were given and of their weights. -> (N, H), (N, K)"""
    assert layer.experts is not None
    model = together.model
    experts, read = model.experts_module(layer.experts), model.expert_reader(layer.experts)
    asked = Asked.joined([half.asked for half in halves])
    outer = torch.cat([half.outer for half in halves])  # (N, H)

    @torch.no_grad()
    def one(pairs: Pairs) -> tuple[Pairs, torch.Tensor, torch.Tensor, dict[str, Sums]]:
        x, after = asked.hidden[pairs.tokens], outer[pairs.tokens]
        weights = asked.weights_of(pairs)
        back = gradients(experts, read(pairs.expert), x, weights, after)
        kept = real[pairs.tokens]
        sums: dict[str, Sums] = {}
        if bool(kept.any()):
            sums = {
                first_name(experts): Sums.of(x[kept], back.first[kept]),
                "down_proj": Sums.of(back.inner[kept], (after * weights)[kept]),
            }
            record.keep(pairs.expert, sums)
        return pairs, back.hidden, back.weights, sums

    of_hidden, of_weights = torch.zeros_like(asked.hidden), torch.zeros_like(asked.weights)
    for pairs, hidden, weights, sums in together.mapped(one, asked.pairs()):
        of_hidden.index_add_(0, pairs.tokens, hidden)
        of_weights[pairs.tokens, pairs.places] = weights.to(of_weights.dtype)
        record.add(sums)
        model.passed(work * len(pairs.tokens) / asked.index.numel())
    return of_hidden, of_weights


def leaf_of(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same values, which gradients are gathered for."""
    return tensor.detach().to(device).requires_grad_()


def gradient_of(leaf: torch.Tensor) -> torch.Tensor:
    """What was gathered."""
    assert leaf.grad is not None
    return leaf.grad
