"""A stock transformers model with its leaves replaced: one forward for the tokens of all models.

Holds the tensors of pool, backbones and keys and values; decides nothing about them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from representation.architecture.anatomy import Anatomy, vocabulary_names
from representation.architecture.config import (
    config_of,
    decoder_beginning,
    rope_fields,
    vocabulary_size,
)
from representation.architecture.skeleton import meta_model
from representation.architecture.tracing.tracing import fresh_rotary
from serve_app.engine.attention.form import AttentionForm
from serve_app.engine.attention.paged import PagedAttention
from serve_app.engine.device.cores import on_cores
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.device.native.library import native
from serve_app.engine.device.native.rows import Rows
from serve_app.engine.leaves.fitting import Fitter
from serve_app.engine.leaves.originals import PerSegment
from serve_app.engine.leaves.siblings import sibling_leaves
from serve_app.engine.model.refusals import as_unsupported
from serve_app.engine.model.replacing import (
    Sizes,
    attach_attention,
    attach_pool,
    attach_states,
    remember_configs,
    replace_leaves,
    replace_rotaries,
    spread_vectors,
)
from serve_app.engine.model.rotary import OwnRotary, PackedRotary, recompute_length
from serve_app.engine.model.rotating import rotate_by_code
from serve_app.engine.model.stock_forward import forward_of
from serve_app.engine.model.watching import RoutingSeen, told
from serve_app.engine.source import ModelLike
from serve_app.engine.stacks.arrivals import Arrivals
from serve_app.engine.stacks.stack_shapes import contents_of, joined_siblings, stack_shapes
from serve_app.engine.stacks.stacks import allocate_stacks
from serve_app.engine.states.by_sequence import BySequence
from serve_app.engine.step.step import CurrentStep, StepView

FEW_TOKENS = 128
"""In steps of at most this many tokens, small operations on the CPU use one core. Large operations,
such as compiled code or products of torch, use all cores."""


@dataclass(frozen=True, slots=True)
class Configured:
    """What a model's config asks for besides tensors, ready to be registered.

    scales: of attention, relative to the stock module's.   Both maps are by path.
    beginning: the tokens with which a decoder begins, where the prompt is its encoder's input.
    """

    rotaries: Mapping[str, OwnRotary]
    vocabulary: int
    recompute_length: int | None
    scales: Mapping[str, float]
    beginning: tuple[int, ...]


class PackedModel:
    """One architecture's forward over packed tokens, with places, shelves and KV blocks.

    pool: one `PoolLayer` per experts module, in the model's order, by its qualified name.
    """

    @as_unsupported()
    def __init__(
        self,
        anatomy: Anatomy,
        sizes: Sizes,
        *,
        dtype: torch.dtype,
        device: torch.device,
        uses_int8: bool = True,
    ) -> None:
        """Allocate everything.

        anatomy: of the model with the longest vocabulary in the family, in `dtype`; its own model
        becomes this one.   uses_int8: see `CompiledExperts`.

        Raises: Unsupported.
        """
        self.sizes = sizes
        self.dtype = dtype
        self.device = device
        self.step = CurrentStep()
        self.is_watched = False
        self._native = native() if device.type == "cpu" else None
        self._multiplier = Multiplier(device, self._native)
        self.arrivals = Arrivals()
        self._config = anatomy.config
        self.has_encoder = anatomy.has_encoder
        self.prompt_at_once = anatomy.prompt_at_once
        self._architecture = type(anatomy.model).__name__
        self._model = anatomy.model
        self._rotary_classes = {path: type(m) for path, m in anatomy.rotaries.items()}
        self.stacks = allocate_stacks(anatomy, sizes.num_places, device, sizes.backbone_rows)
        self.stack_shapes = stack_shapes(anatomy)
        self.siblings = joined_siblings(anatomy)
        self.vocabulary_names = vocabulary_names(self._config, anatomy)
        self._vocabularies: dict[int, int] = {}
        self._vocabulary_ends = torch.empty(0, dtype=torch.int64, device=device)
        self._recompute_lengths: dict[int, int | None] = {}
        # Before the leaves: no path leads to the experts of a block that one leaf replaces.
        self._experts = {path: self._model.get_submodule(path) for path in anatomy.experts}
        self.pool = attach_pool(
            anatomy,
            self.step,
            sizes.shelves,
            self._multiplier,
            dtype=dtype,
            device=device,
            native=self._native,
            uses_int8=uses_int8,
        )
        fitter = Fitter(self.step, self.stacks, self._multiplier, device, self._native)
        joined = sibling_leaves(anatomy, self.step, self.stacks, self._multiplier)
        replace_leaves(anatomy, fitter, joined)
        self.states = attach_states(anatomy, self.step, self.stacks, sizes, fitter)
        spread_vectors(anatomy, self.step, self.stacks)
        self.rotaries = replace_rotaries(anatomy, self.step)
        self.attentions = attach_attention(anatomy, self.step, self.stacks, sizes, dtype, device)
        self._forward = forward_of(anatomy, self.step)
        self._rotate_by_code()
        remember_configs(self._model)

    def _rotate_by_code(self) -> None:
        if self._native is not None:
            modules = map(self._model.get_submodule, self.attentions)
            rotate_by_code(modules, Rows(self._native))

    @property
    def attention_forms(self) -> tuple[AttentionForm, ...]:
        """The forms of attention of the layers, each once."""
        forms = {id(paged.form): paged.form for paged in self.attentions.values()}
        return tuple(forms.values())

    @as_unsupported()
    def configured(self, config: Mapping[str, Any]) -> Configured:
        """Make what a model's config asks for. May be called from any thread while steps run.

        Raises: Unsupported.
        """
        own = config_of(config)
        rotaries = {}
        for path, kind in self._rotary_classes.items():
            module = fresh_rotary(self._architecture, path, kind, own).to(self.device)
            rotaries[path] = OwnRotary.of(module, rope_fields(own))
        return Configured(
            rotaries,
            vocabulary=vocabulary_size(own),
            recompute_length=recompute_length(type(self._model), own),
            scales=self._scales(own),
            beginning=decoder_beginning(own),
        )

    def register_row(self, row: int, made: Configured) -> None:
        """Register the model of a map row: its rope, its vocabulary, its scales of attention."""
        for path, rotary in made.rotaries.items():
            self.rotaries[path].register_row(row, rotary)
        self._vocabularies[row] = made.vocabulary
        self._note_vocabularies()
        self._recompute_lengths[row] = made.recompute_length
        for path, ratio in made.scales.items():
            self._register_scale(self.attentions[path], row, ratio)

    def forget_row(self, row: int) -> None:
        """Forget the model of a map row, which has no more tokens, as far as it is registered."""
        for rotary in self.rotaries.values():
            rotary.forget_row(row)
        for layer in self.pool.values():
            layer.forget_row(row)
        self._vocabularies.pop(row, None)
        self._note_vocabularies()

    def _note_vocabularies(self) -> None:
        """Where the vocabulary of each map row's model ends, on the device."""
        ends = [
            self._vocabularies.get(row, 0) for row in range(max(self._vocabularies, default=-1) + 1)
        ]
        self._vocabulary_ends = torch.tensor(ends, dtype=torch.int64, device=self.device)
        self.step.revise()

    def _scales(self, own: Any) -> dict[str, float]:
        """Scales of a model's attention relative to the stock module's, by path."""
        if rope_fields(own) == rope_fields(self._config):
            return dict.fromkeys(self.attentions, 1.0)
        # In float32: building a model sets torch's default dtype, which running steps see.
        model = meta_model(own, torch.float32)
        found = {}
        for path in self.attentions:
            stock = getattr(self._model.get_submodule(path), "scaling", None)
            scale = getattr(model.get_submodule(path), "scaling", None)
            found[path] = 1.0 if stock is None or scale is None else scale / stock
        return found

    def _register_scale(self, paged: PagedAttention, row: int, ratio: float) -> None:
        if paged.scales is None and ratio == 1.0:
            return
        scales = [1.0] * (row + 1) if paged.scales is None else paged.scales.tolist()
        scales += [1.0] * (row + 1 - len(scales))
        scales[row] = ratio
        paged.scales = torch.tensor(scales, device=self.device)

    @property
    def bound_to_host(self) -> str | None:
        """Why the same operations cannot serve steps of any models; None: they can."""
        if self.has_encoder:
            return "its inputs are of as many tokens as they are"
        for path, module in self._model.named_modules():
            if isinstance(module, PerSegment | BySequence):
                return f"{path} runs once per model"
            if isinstance(module, PackedRotary) and module.looks_at_length:
                return f"{path} looks at the length of sequences"
        return None

    def vocabulary(self, row: int) -> int:
        """Length of the vocabulary of the model in a map row."""
        return self._vocabularies[row]

    def recompute_length(self, row: int) -> int | None:
        """Number of known tokens beyond which the model's sequences are recomputed, or None."""
        return self._recompute_lengths[row]

    def is_by_length(self, row: int) -> bool:
        """Whether keys of the model in a map row depend on the length of the sequence."""
        return any(rotary.is_by_length(row) for rotary in self.rotaries.values())

    @property
    def longest_vocabulary(self) -> int:
        """Length of the vocabulary that the stacks have room for."""
        return vocabulary_size(self._config)

    def grow_vocabulary(self, length: int) -> None:
        """Make room for longer vocabularies; loaded models stay loaded."""
        more = length - self.longest_vocabulary
        for name in self._vocabulary_stacks():
            stack = self.stacks.stacks()[name]
            rows, _, *others = stack.tensor.shape
            room = stack.tensor.new_zeros((rows, more, *others))
            stack.tensor = torch.cat([stack.tensor, room], dim=1)  # (R, V, …)
        self._config.get_text_config().vocab_size = length
        self.step.revise()

    def grow_backbones(self, sources: Mapping[str, Sequence[int | None]]) -> None:
        """Make room for more rows of backbones; see `Stacks.grow`."""
        if sources:
            self.stacks.grow(sources)
            self.step.revise()

    def point_backbone(self, place: int, rows: Mapping[str, int]) -> None:
        """Let a place read these rows; see `Stacks.point`."""
        if self.stacks.point(place, rows):
            self.step.revise()

    def backbone_bytes_with(self, num_rows: Mapping[str, int], vocabulary: int) -> int:
        """Bytes of stacks with that many rows each, with room for a vocabulary of that length."""
        longer = max(0, vocabulary - self.longest_vocabulary)
        over_vocabulary = self._vocabulary_stacks()
        total = 0
        for name, stack in self.stacks.stacks().items():
            row = stack.tensor[0]
            more = longer * row.nbytes // row.shape[0] if name in over_vocabulary else 0
            total += num_rows[name] * (row.nbytes + more)
        return total

    def contents_of(self, model: ModelLike) -> dict[str, str]:
        """The content of a model's backbone in each stack: equal if the tensors are equal."""
        return contents_of(model, self.stack_shapes, self.stacks.canonical)

    def _vocabulary_stacks(self) -> list[str]:
        return sorted({self.stacks.canonical(name) for name in self.vocabulary_names})

    @property
    def pool_bytes(self) -> int:
        return sum(layer.num_bytes for layer in self.pool.values())

    @property
    def backbone_bytes(self) -> int:
        return self.stacks.num_bytes

    @property
    def kv_bytes(self) -> int:
        return sum(paged.store.num_bytes for paged in self.attentions.values())

    @property
    def state_bytes(self) -> int:
        return self.states.num_bytes

    @property
    def attention_bytes(self) -> int:
        """Bytes that forms of attention keep between steps."""
        return sum(form.num_bytes for form in self.attention_forms)

    @contextmanager
    def watching(self, seen: RoutingSeen) -> Iterator[None]:
        """Calls `seen` with the inputs of each experts module, inside the block.

        This needs calls of the modules, so do not replay a captured step meanwhile.
        """
        modules = [(self._experts[path], layer) for path, layer in self.pool.items()]
        with told(modules, seen):
            self.is_watched = True
            try:
                yield
            finally:
                self.is_watched = False

    @torch.inference_mode()
    def forward(self, view: StepView) -> torch.Tensor:
        """Run one step, whose sequences have begun.

        ->  (n, V) logits of the rows that need them, V the longest vocabulary

        Rows of a model with a shorter vocabulary are -inf beyond its end.
        """
        self.stacks.awaited = self.arrivals.pending(s.place for s in view.tokens.segments)
        few = self._native is not None and view.num_tokens <= FEW_TOKENS
        with self.step.running(view), on_cores(1) if few else self._multiplier.all_cores():
            logits = self._forward(view)[0]  # (1, n, V) -> (n, V)
        if min(self._vocabularies.values()) < logits.shape[1]:
            ends = self._vocabulary_ends[view.outputs.rows].unsqueeze(1)  # (n, 1)
            beyond = torch.arange(logits.shape[1], device=logits.device) >= ends  # (n, V)
            logits = logits.masked_fill(beyond, float("-inf"))
        return logits
