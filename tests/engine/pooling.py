"""One layer of a pool by itself, filled from a release in memory, and what it should give."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from representation.architecture.experts import experts_module
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.pool import PoolLayer
from serve_app.engine.experts.shelves import LayerShape
from serve_app.engine.experts.shelving import ShelfKey, maps_of, parts_by_shelf, shelf_rows
from serve_app.engine.experts.together import Together
from serve_app.engine.step.integers import Integers
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import CurrentStep, StepView
from tests.support.sources import MemorySource

CPU = torch.device("cpu")


def filled_layer(
    source: MemorySource,
    position: int,
    experts: Any,
    *,
    dtype: torch.dtype = torch.float32,
    together: Together | None = None,
) -> PoolLayer:
    """A layer with all parts of a release, models in map rows 0, 1, … in order."""
    of_source = source.layers[position]
    shape = LayerShape.of(experts_module(of_source.module, experts))
    step, rows = CurrentStep(), shelf_rows(of_source)
    layer = PoolLayer(
        step, shape, rows, Multiplier(CPU), dtype=dtype, device=CPU, together=together
    )
    rows_of: dict[ShelfKey, dict[str, int]] = {}
    for key, digests in parts_by_shelf(of_source).items():
        read = source.read_residual if key.residual else source.read_slot
        for row, (digest, index) in enumerate(digests.items()):
            layer.shelves[key].write(row, read(position, index), "a part")
            rows_of.setdefault(key, {})[digest] = row
    for number, model in enumerate(source.models.values()):
        row_of = {key: rows.__getitem__ for key, rows in rows_of.items()}
        layer.set_map(number, maps_of(of_source, model, position, row_of))
    return layer


def assert_as_by_themselves(
    layer: PoolLayer, experts: Mapping[str, Any], rows: Sequence[int], seed: int = 0
) -> torch.Tensor:
    """Random tokens through the layer give what each model's own experts module gives: that.

    experts: of each model, dense.   rows: map row of each token, ascending.
    """
    generator = torch.Generator().manual_seed(seed)
    own = list(experts.values())
    num_columns = layer.shape.expert.matrix("down_proj")[0]
    hidden = torch.randn((len(rows), num_columns), generator=generator)
    weights, index = torch.rand((len(rows), layer.shape.num_experts), generator=generator).topk(
        2, dim=-1
    )
    spans = Spans.of(list(rows), list(rows), len(own), Integers(CPU))
    nothing = torch.empty(0, dtype=torch.int64)
    with torch.no_grad():
        with layer.step.running(StepView(spans, spans, nothing, nothing, nothing, nothing)):
            found = layer.forward(own[0], hidden, index, weights)
        for segment in spans.segments:
            part = slice(segment.start, segment.end)
            expected = own[segment.place](hidden[part], index[part], weights[part])
            assert torch.allclose(found[part], expected, rtol=1e-4, atol=1e-5)
    return found
