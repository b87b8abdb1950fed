"""Carries gradients back through a layer, and adds up what its experts were given. Keeps none.

The layer runs again up to its experts and, with what they gave on the way forwards, beyond them.
Then each expert is read once, and computes the tokens of all inputs again, forwards and backwards.
"""

from dataclasses import dataclass

import torch

from consolidation.statistics.moments import Record, Sums
from consolidation.walk.asked import Asked, Pairs
from consolidation.walk.experts_forward import Given, first_name, gradients
from consolidation.walk.scratch import Scratch
from consolidation.walk.side_by_side import SideBySide
from consolidation.walk.streamed import Layer

GRADIENT, EXPERTS = "gradient", "experts"
"""Set aside under these names: (GRADIENT, input), of what comes out of the layer that was last gone
back through; ((EXPERTS, layer), input), what experts gave; (layer, input), what a layer is given.
"""


@dataclass(slots=True)
class _Half:
    """An input that went through the layer, and back to what its experts gave.

    outer: (T, H), the gradient of that.
    """

    leaf: torch.Tensor
    out: torch.Tensor
    asked: Asked
    outer: torch.Tensor


def go_back_without_experts(together: SideBySide, layer: Layer, states: Scratch) -> None:
    """Replace the gradients of what comes out of a filled layer by those of what it is given."""
    model = together.model

    def back(number: int) -> None:
        leaf = leaf_of(states.get((layer.number, number)), model.device)
        out = model.run(layer, leaf, together.calls[number], model.inline(layer))
        out.backward(states.get((GRADIENT, number)).to(model.device))
        states.put((GRADIENT, number), gradient_of(leaf))

    for _ in together.mapped(back, range(len(together.calls))):
        pass


def go_back(
    together: SideBySide,
    layer: Layer,
    states: Scratch,
    real: torch.Tensor,
    record: Record,
    work: float,
) -> None:
    """The same for a layer of experts. Records what they were given.

    real: (N,), which of the tokens of all inputs, one after another, count   work: all that this
    is, as `walk/course.py` counts it; the model is told of it.
    """
    model, numbers = together.model, range(len(together.calls))

    def gradient(number: int) -> torch.Tensor:
        return states.get((GRADIENT, number)).to(model.device)

    def begin(number: int) -> _Half:
        leaf = leaf_of(states.get((layer.number, number)), model.device)
        given = Given(leaf_of(states.get(((EXPERTS, layer.number), number)), model.device))
        out = model.run(layer, leaf, together.calls[number], given)
        if given.asked is None:
            raise model.refused(layer, "does not come to its experts")
        (outer,) = torch.autograd.grad(out, given.out, gradient(number), retain_graph=True)
        return _Half(leaf, out, given.asked, outer)

    def end(number: int, of_hidden: torch.Tensor, of_weights: torch.Tensor) -> None:
        half, halves[number] = halves[number], None
        assert half is not None
        ends = [
            (half.out, gradient(number)),
            (half.asked.hidden, of_hidden),
            (half.asked.weights, of_weights),
        ]
        ends = [pair for pair in ends if pair[0].requires_grad]
        torch.autograd.backward([one for one, _ in ends], [back for _, back in ends])
        states.put((GRADIENT, number), gradient_of(half.leaf))

    halves: list[_Half | None] = list(together.mapped(begin, numbers))
    lengths = [len(half.outer) for half in halves if half is not None]
    there = [half for half in halves if half is not None]
    found = _through_experts(together, layer, there, real, record, work)
    there.clear()
    parts = (one.split(lengths) for one in found)
    for _ in together.mapped(end, numbers, *parts):
        pass


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
