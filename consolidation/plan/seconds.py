"""Seconds of a decode step that go into experts. Predicts; measures nothing.

Rates are those of one core of an AMD EPYC (Zen 4, AVX-512 with VNNI) in the compiled form, as
docs/log.md of 2026-11-28 has them. Only their ratios count: they say which of two plans takes less.
"""

from collections import Counter
from collections.abc import Sequence

from consolidation.compare.costs import cost_of
from consolidation.compare.groups import Choices
from consolidation.compare.part_form import PartForm
from consolidation.plan.terms import LayerChoices
from representation.step_reads import DecodeStep

BYTES_S = 44e9
"""Bytes of parts read in a second."""
PRODUCTS_S = 62e9
"""Products of a second: of a code of one plane with a number of x."""
FORMAT_S = 2e-7
"""Seconds for each shelf of a layer. More than was measured, which was nothing."""


class LayerSeconds:
    """What choices for a layer's experts take in a step."""

    def __init__(self, layer: LayerChoices, step: DecodeStep) -> None:
        self._sizes = layer.sizes
        self._step = step
        self._is_read = step.reads(layer.contents.module)
        self._users = [Counter(user.model for user in users) for users in layer.contents.users]
        every = sum(self._users, Counter[str]())
        self._num_experts = max(every.values(), default=0)
        self._known: dict[tuple[bool, PartForm, tuple[int, ...]], float] = {}

    def of(self, choices: Choices) -> float:
        """Seconds of all parts of these choices."""
        total = 0.0
        if not self._is_read:
            return total
        for slot in choices:
            together = Counter[str]()
            for use in slot.uses:
                own = self._users[use.expert]
                together += own
                total += sum(self._part(one, own, residual=True) for one in use.residuals)
            total += sum(self._part(one, together, residual=False) for one in slot.forms)
        return total

    def _part(self, form: PartForm, users: Counter[str], *, residual: bool) -> float:
        counts = tuple(sorted(users.values()))
        key = (residual, form, counts)
        if key not in self._known:
            chance = self._step.chance(counts, self._num_experts)
            rows = sum(counts) * self._step.tokens_of_expert(self._num_experts)
            moved = chance * self._sizes.on_device(form, residual=residual)
            products = rows * self._products(form)
            self._known[key] = moved / BYTES_S + products / PRODUCTS_S
        return self._known[key]

    def _products(self, form: PartForm) -> float:
        """Of one row."""
        own = self._sizes.shape.only(form.matrices)
        return cost_of(form.format.kind).products(form.format, own)


def formats_seconds(by_layer: Sequence[Sequence[Choices]]) -> float:
    """Seconds for being on several shelves. by_layer: choices of each layer's groups"""
    return FORMAT_S * sum(
        len({part for choices in layer for slot in choices for part in slot.shelves})
        for layer in by_layer
    )
