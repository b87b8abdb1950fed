"""The pool: per layer, the shelves that hold the experts' parts, and the forward over them.

An expert is the sum of its parts, one slot and any residuals, so its linear layers are sums over
shelves of grouped products. Decides nothing: `scheduling.ledgers` counts rows.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from representation.architecture.tracing.trace import Stream
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.gating import activated, first_matrix
from serve_app.engine.experts.linear import part_linear
from serve_app.engine.experts.shelves import LayerShape, Pick, Shelf
from serve_app.engine.experts.shelving import DENSE_SLOTS, NO_PART, ShelfKey, ShelfMap, ShelfRows
from serve_app.engine.experts.together import Together
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import CurrentStep

EXPERTS = "expertpool_pool"


class PoolLayer:
    """One layer's shelves. All have the same map rows, one for each model of a release.

    shelves: in the order of their keys, so those of slots first.
    """

    def __init__(
        self,
        step: CurrentStep,
        shape: LayerShape,
        rows: ShelfRows,
        multiplier: Multiplier,
        *,
        dtype: torch.dtype,
        device: torch.device,
        together: Together | None = None,
        stream: Stream = "tokens",
    ) -> None:
        """together: used if possible; belongs to this layer alone.   stream: of its tokens."""
        self.step = step
        self._stream = stream
        self._together = together
        self._multiplier = multiplier
        self.shape = shape
        self.num_map_rows = 0
        self.shelves: dict[ShelfKey, Shelf] = {}
        self.counts = device.type != "cuda"
        """Whether the host counts which pairs have parts; on CUDA it would have to wait."""
        self._dtype = dtype
        self._device = device
        for key, num_rows in rows.items():
            self.add(key, num_rows)

    @property
    def spans(self) -> Spans:
        """To which models its tokens belong."""
        return self.step.view.spans(self._stream)

    @property
    def num_bytes(self) -> int:
        return sum(shelf.num_bytes for shelf in self.shelves.values())

    def add(self, key: ShelfKey, num_rows: int) -> None:
        """Add a shelf, on which no expert has a part yet."""
        shelf = Shelf(
            key,
            self.shape,
            num_rows=num_rows,
            num_map_rows=self.num_map_rows,
            dtype=self._dtype,
            device=self._device,
        )
        self.shelves = dict(sorted([*self.shelves.items(), (key, shelf)]))
        self._revise()

    def grow(self, key: ShelfKey, num_rows: int) -> None:
        """Make room on a shelf for more parts; existing parts keep their rows."""
        self.shelves[key].grow(num_rows)
        self._revise()

    def remove(self, key: ShelfKey) -> None:
        """Remove a shelf whose parts nothing needs."""
        del self.shelves[key]
        self._revise()

    def set_map(self, row: int, parts: Mapping[ShelfKey, ShelfMap]) -> None:
        """Point map row `row` at rows of parts; on shelves not given, experts have none."""
        self.num_map_rows = max(self.num_map_rows, row + 1)
        nothing = ShelfMap(*[[NO_PART] * self.shape.num_experts] * 2)
        for key, shelf in self.shelves.items():
            shelf.set_map(row, parts.get(key, nothing))
        self._revise()

    def forget_row(self, row: int) -> None:
        """Forget the model of a map row, which has no more tokens."""
        for shelf in self.shelves.values():
            shelf.forget_row(row)
        self._revise()

    def _revise(self) -> None:
        """Call it when shelves or maps have changed."""
        if self._together is not None:
            self._together.forget()
        self.step.revise()

    def forward(
        self, experts: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Experts of all models' tokens.

        hidden: (T, H)   index: (T, K), each token's experts   weights: (T, K)  ->  (T, H)
        Two experts of one token may share a slot; then their weights add up.
        """
        tokens = self.spans
        if self._computes_together(tokens.models, index.numel()):
            assert self._together is not None
            return self._together.forward(
                self.shelves, experts, hidden, tokens.rows, index, weights
            )
        entries = self.shape.entries(tokens.rows, index)  # (T, K)
        return self._by_shelves(experts, hidden, entries, weights)

    def _computes_together(self, models: Collection[int] | None, num_pairs: int) -> bool:
        """models: those in the step; None: any, since the step is captured"""
        form = self._together
        if form is None or (models is None and not form.can_be_captured):
            return False
        num_models = self.num_map_rows if models is None else len(models)
        return form.reads(self.shelves) and form.pays_off(self.shelves, num_pairs, num_models)

    def _by_shelves(
        self, experts: Any, hidden: torch.Tensor, entries: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """In one sequence of grouped products over shelves. entries: (T, K)"""
        num_tokens, top_k = entries.shape
        picks, order = self._pick(entries.flatten(), self.spans.models)
        x = hidden.index_select(0, order // top_k)  # (T*K, H)
        x = activated(experts, self._linear(picks, first_matrix(experts), x))  # (T*K, I)
        x = self._linear(picks, "down_proj", x)  # (T*K, H)
        x = x * weights.flatten().index_select(0, order).unsqueeze(-1)  # (T*K, H)
        out = torch.empty_like(x).index_copy_(0, order, x)  # (T*K, H), token by token
        return out.view(num_tokens, top_k, -1).sum(dim=1).to(hidden.dtype)  # (T, H)

    def _pick(
        self, entries: torch.Tensor, models: Collection[int] | None
    ) -> tuple[list[Pick], torch.Tensor]:
        """What is needed from each shelf, and the order in which the pairs are computed.

        If some shelf has a part of every expert in the step, this is its order, so that its product
        takes and gives all rows as they are.
        entries: (n,)   models: those in the step; None: any  ->  order: (n,)
        """
        counts = self.counts and models is not None
        slots = self.shelves.get(DENSE_SLOTS)
        shelves = [shelf for shelf in self.shelves.values() if shelf.serves(models)]
        lead = next((shelf for shelf in shelves if shelf.serves_all(models)), None)
        if lead is None:
            order = torch.arange(entries.shape[0], device=entries.device)
            return [shelf.pick_some(entries, slots, counts=counts) for shelf in shelves], order
        pick, order = lead.pick_all(entries, slots, counts=counts)
        shelves.remove(lead)
        if not shelves:
            return [pick], order
        entries = entries[order]
        others = [shelf.pick_some(entries, slots, counts=counts) for shelf in shelves]
        return [pick, *others], order

    def _linear(self, picks: Sequence[Pick], name: str, x: torch.Tensor) -> torch.Tensor:
        """x: (n, I)  ->  (n, O), the sum over shelves"""
        x = x.to(self._dtype)
        total = None
        for pick in picks:
            if not pick.shelf.key.holds(name):
                continue
            if pick.pairs is None:
                total = part_linear(self._multiplier, pick, name, x)
            elif pick.pairs.shape[0]:
                part = part_linear(self._multiplier, pick, name, x[pick.pairs])  # (m, O)
                if total is None:
                    total = part.new_zeros((x.shape[0], part.shape[1]))  # (n, O)
                total.index_add_(0, pick.pairs, part)
        assert total is not None, "an expert without a slot"
        return total


def _experts_forward(
    experts: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """The experts interface's function: the module's pool does the work."""
    layer: PoolLayer = experts.pool_layer
    return layer.forward(experts, hidden_states, top_k_index, top_k_weights)


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, _experts_forward)
