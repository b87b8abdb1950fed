"""The least that a step must move and compute. Plans; measures and allocates nothing.

Counts once each: the rows of the pool that are touched; the backbones of the models in the step
(of an embedding table that is not also the head, only the rows of its tokens); keys and values that
are seen and that are written; states of recurrent mixers, read once and written once; logits,
written once and read once. Leaves out activations, indices and maps, so it counts less than what
really moves.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from representation.architecture.anatomy import study
from representation.architecture.config import config_of
from representation.formats import ExpertShape, Format
from serve_app.bench.step.rates import Rates
from serve_app.bench.step.touched import Routing
from serve_app.engine.backbone_needs import stack_needs
from serve_app.engine.model.facts import layer_shapes
from serve_app.engine.source import ModelLike
from serve_app.engine.stacks.stack_shapes import tied_names, unique_tensors
from serve_app.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one sequence in a step: `length` of them, after `start` that are stored."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that must move in a step, by kind."""

    pool: int
    backbones: int
    kv: int
    states: int
    logits: int

    @property
    def total(self) -> int:
        return self.pool + self.backbones + self.kv + self.states + self.logits


@dataclass(frozen=True, slots=True)
class Floor:
    """The shortest time of a step: the longer of moving and computing."""

    traffic: Traffic
    operations: int
    moving_s: float
    computing_s: float

    @property
    def seconds(self) -> float:
        return max(self.moving_s, self.computing_s)

    @property
    def limit(self) -> str:
        """The quantities behind the floor."""
        return "bytes" if self.moving_s >= self.computing_s else "operations"


class FloorPlan:
    """Floors of the steps of one architecture in one dtype. Looks at shapes only."""

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        """config: with the longest vocabulary of the family. Raises: Unsupported."""
        fields = config_of(config)
        if fields.is_encoder_decoder:
            raise Unsupported(
                f"{fields.model_type} has an encoder beside its decoder, and floors of steps are "
                "known for decoders alone; bench load and bench compare measure it"
            )
        anatomy = study(fields, dtype)
        text = fields.get_text_config()
        self._anatomy = anatomy
        tensors = unique_tensors(anatomy)
        model = anatomy.model
        embedding = _weight_name(model, model.get_input_embeddings())
        head = _weight_name(model, model.get_output_embeddings())
        self._dtype = dtype
        self._vocabulary = int(text.vocab_size)
        self._num_heads = int(text.num_attention_heads)
        self._layers = layer_shapes(anatomy)
        self._attentions = [
            (shape, anatomy.kinds[path].window) for path, shape in anatomy.attentions.items()
        ]
        self._state_bytes = sum(mixer.state_bytes for mixer in anatomy.recurrent.values())
        sizes = {name: shape.numel() * kind.itemsize for name, (shape, kind) in tensors.items()}
        is_tied = tied_names(anatomy).get(head) == embedding
        self._gathered = None if is_tied else embedding
        self._row_bytes = 0 if is_tied else sizes[embedding] // self._vocabulary
        self._backbone_bytes = sum(sizes.values()) - self._row_bytes * self._vocabulary
        self._head_ops = 2 * anatomy.tensors[head][0].numel()
        self._token_ops = 2 * sum(
            shape.numel()
            for name, (shape, _) in tensors.items()
            if len(shape) > 1 and name not in (embedding, head)
        )

    def in_common(self, models: Sequence[ModelLike]) -> int:
        """Bytes of backbones that a step of these models need not move, since they are held once.

        Of what is read whole: an embedding is read by the token.
        """
        needs = stack_needs(self._anatomy, models)
        return sum(
            (len(models) - needs.distinct[stack]) * num_bytes
            for stack, num_bytes in needs.row_bytes.items()
            if stack != self._gathered
        )

    def floor(
        self,
        num_models: int,
        spans: Sequence[Span],
        routing: Routing,
        rates: Rates,
        in_common: int = 0,
    ) -> Floor:
        """The floor of a step in which each span samples one token.

        num_models: in the step.   in_common: bytes that their backbones share
        """
        traffic = self.traffic(num_models, spans, routing, in_common)
        operations = self.operations(spans, routing)
        return Floor(
            traffic,
            operations,
            moving_s=traffic.total / rates.copy_bytes_s,
            computing_s=operations / rates.best_matrix_ops_s,
        )

    def traffic(
        self, num_models: int, spans: Sequence[Span], routing: Routing, in_common: int = 0
    ) -> Traffic:
        """Bytes that a step must move."""
        num_tokens = sum(span.length for span in spans)
        whole = num_models * self._backbone_bytes - in_common
        backbones = whole + num_tokens * self._row_bytes
        pool = sum(
            use.num_rows * shape.part_bytes(key, self._dtype)
            for shape, layer in zip(self._layers, routing, strict=True)
            for key, use in layer.items()
        )
        numbers = sum(
            shape.width * sum(_stored(span, window) + span.length for span in spans)
            for shape, window in self._attentions
        )
        logits = 2 * len(spans) * self._vocabulary * self._dtype.itemsize
        states = 2 * len(spans) * self._state_bytes  # read, and written
        return Traffic(pool, backbones, numbers * self._dtype.itemsize, states, logits)

    def operations(self, spans: Sequence[Span], routing: Routing) -> int:
        """Multiplications and additions of a step's matrix products, for each part separately."""
        experts = sum(
            use.num_pairs * _part_ops(shape.expert.only(key.matrices), key.format)
            for shape, layer in zip(self._layers, routing, strict=True)
            for key, use in layer.items()
        )
        seen = sum(
            2 * self._num_heads * (shape.key_dim + shape.value_dim) * _pairs(spans, window)
            for shape, window in self._attentions
        )
        num_tokens = sum(span.length for span in spans)
        return experts + seen + num_tokens * self._token_ops + len(spans) * self._head_ops


def _weight_name(model: nn.Module, wanted: nn.Module) -> str:
    """The name of a module's weight, wherever the module is."""
    return next(f"{path}.weight" for path, module in model.named_modules() if module is wanted)


def _stored(span: Span, window: int | None) -> int:
    """Positions before the span that any of its tokens sees."""
    return span.start if window is None else min(span.start, window - 1)


def _pairs(spans: Iterable[Span], window: int | None) -> int:
    """Pairs of a token and a position that it sees, including its own."""
    return sum(
        min(position + 1, window or position + 1)
        for span in spans
        for position in range(span.start, span.start + span.length)
    )


def _part_ops(shape: ExpertShape, fmt: Format) -> int:
    """Of one token through all matrices of one part."""
    return sum(fmt.operations(*shape.matrix(name)) for name in shape.matrices)
