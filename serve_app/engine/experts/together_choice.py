"""Which form computes a layer's shelves together: the first that proves equal to the plain one."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from representation.formats import Packed
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.device.native.library import Native
from serve_app.engine.device.native.parts import CompiledParts
from serve_app.engine.device.trial import experts_difference, first_equal
from serve_app.engine.experts.compiled import CompiledExperts
from serve_app.engine.experts.pool import PoolLayer
from serve_app.engine.experts.shelves import LayerShape
from serve_app.engine.experts.shelving import NO_PART, ShelfKey, ShelfMap, ShelfRows
from serve_app.engine.experts.together import Together
from serve_app.engine.step.integers import Integers
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import CurrentStep, StepView

logger = logging.getLogger(__name__)
TRIED_TOKENS = (3, 300)
"""Tokens of the trials: some parts with few rows, and some with many."""

MakeTogether = Callable[[], Together | None]
"""Makes the form of one layer; None: there is none but the plain one."""
Layers = Sequence[tuple[Any, LayerShape, ShelfRows]]
"""Of each layer: its experts module, the shape of its experts, and its shelves."""


def make_together(
    layers: Layers,
    multiplier: Multiplier,
    native: Native | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    uses_int8: bool,
) -> MakeTogether:
    """For a device. native: compiled code, if there is any   uses_int8: see `CompiledExperts`

    Kernels for CUDA are tried, on parts of the layers' formats and sizes, and a warning says why if
    they are not used. So they are also compiled before there are requests.
    """
    if device.type == "cuda":
        makers = () if (launched := _launched(device)) is None else (launched,)
        return first_proven(makers, layers, multiplier, dtype=dtype, device=device)
    if native is None or dtype != torch.bfloat16:
        return lambda: None
    parts = CompiledParts(native)
    return lambda: CompiledExperts(parts, uses_int8=uses_int8)


def _launched(device: torch.device) -> MakeTogether | None:
    """None without Triton."""
    try:
        from serve_app.engine.device.kernels.part_launches import PartLaunches
        from serve_app.engine.experts.launched import LaunchedExperts
    except ImportError as error:
        logger.info("experts: kernels are not available: %s", error)
        return None
    launches = PartLaunches(device)
    return lambda: LaunchedExperts(launches)


def first_proven(
    makers: Sequence[MakeTogether],
    layers: Layers,
    multiplier: Multiplier,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> MakeTogether:
    """The first of these that equals the plain form in every kind of layer, on random parts."""
    kinds: list[tuple[Any, LayerShape, frozenset[ShelfKey]]] = []
    for module, shape, rows in layers:
        keys = frozenset(rows)
        if not any((shape, keys) == kind[1:] for kind in kinds):
            kinds.append((module, shape, keys))

    def difference(make: MakeTogether) -> str | None:
        for module, shape, keys in kinds:
            made = _Trial(module, shape, keys, multiplier, dtype, device)
            for num_tokens in TRIED_TOKENS:
                found = made.difference(make, num_tokens)
                if found is not None:
                    return found
        return None

    def refused(_: MakeTogether, why: str) -> None:
        logger.warning("experts: shelves are multiplied one by one, since together %s", why)

    return first_equal(makers, difference, refused) or (lambda: None)


class _Trial:
    """One part on each shelf of a layer, with random contents, and two models of such parts."""

    def __init__(
        self,
        experts: Any,
        shape: LayerShape,
        keys: frozenset[ShelfKey],
        multiplier: Multiplier,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._experts = experts
        self._step = CurrentStep()
        self._dtype, self._device = dtype, device
        self._layer = PoolLayer(
            self._step, shape, dict.fromkeys(keys, 1), multiplier, dtype=dtype, device=device
        )
        generator = torch.Generator(device).manual_seed(0)
        for key, shelf in self._layer.shelves.items():
            for name, tensor in shelf.tensors.items():
                _fill(key, name, tensor, generator)
        for model in range(2):
            self._layer.set_map(model, _maps(sorted(keys), shape.num_experts, model))

    def difference(self, make: MakeTogether, num_tokens: int) -> str | None:
        """How a form differs from the plain one; None if it does not."""
        together = make()
        assert together is not None
        if not together.reads(self._layer.shelves):
            return None
        wanted = self._through(num_tokens)
        try:
            found = self._through(num_tokens, together)
        except Exception as error:  # noqa: BLE001 - compilers raise errors of their own
            return f"they fail: {error}"
        return experts_difference(found, wanted)

    def _through(self, num_tokens: int, together: Together | None = None) -> torch.Tensor:
        """Random tokens through the layer. -> (T, H)"""
        layer, generator = self._layer, torch.Generator().manual_seed(num_tokens)
        width, _ = layer.shape.expert.matrix("down_proj")
        hidden = torch.randn((num_tokens, width), generator=generator)
        scores = torch.rand((num_tokens, layer.shape.num_experts), generator=generator)
        weights, index = scores.topk(min(2, layer.shape.num_experts))
        rows = sorted(token % 2 for token in range(num_tokens))
        spans = Spans.of(rows, rows, 2, Integers(self._device))
        nothing = torch.empty(0, dtype=torch.int64)
        view = StepView(spans, spans, nothing, nothing, nothing, nothing)
        x, weights = (one.to(self._device, self._dtype) for one in (hidden, weights))
        index = index.to(self._device)
        with torch.no_grad(), self._step.running(view):
            if together is None:
                return layer.forward(self._experts, x, index, weights)
            return together.forward(layer.shelves, self._experts, x, spans.rows, index, weights)


def _fill(key: ShelfKey, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Random contents; of parts that replace weights, no entries, so that they are the slot's."""
    if tensor.dtype == torch.uint8 and not key.format.replaces:
        tensor.random_(0, 256, generator=generator)
    elif tensor.is_floating_point():
        size = tensor.shape[-1] ** 0.5
        if isinstance(key.format, Packed) and name.endswith(".scales"):
            size = 10 * 2**key.format.bits
        tensor.normal_(generator=generator).div_(size)


def _whole_slots(keys: Sequence[ShelfKey]) -> list[list[ShelfKey]]:
    """Slots in one part or several, that together have all of the keys."""
    found = []
    for key in keys:
        parts = [key]
        for other in keys if key.matrices else ():
            held = {name for part in parts for name in part.matrices}
            if other.matrices and held.isdisjoint(other.matrices):
                parts.append(other)
        found.append(parts)
    return found


def _maps(keys: Sequence[ShelfKey], num_experts: int, model: int) -> Mapping[ShelfKey, ShelfMap]:
    """Each expert has a slot and, in turn, a residual or two; each key is some expert's."""
    slots = _whole_slots([key for key in keys if not key.residual])
    residuals = [key for key in keys if key.residual]
    found = {key: ShelfMap(*[[NO_PART] * num_experts for _ in range(2)]) for key in keys}
    for expert in range(num_experts):
        turn = expert + model
        own = [residuals[(turn + more) % len(residuals)] for more in range(turn % 3) if residuals]
        replacing = next((key for key in own if key.format.replaces), None)
        if replacing is not None:
            found[replacing].parts[expert] = found[replacing].bases[expert] = 0
            continue
        for key in (*slots[turn % len(slots)], *own):
            found[key].parts[expert] = 0
    return found
