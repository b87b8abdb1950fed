"""Runs a model once without data to see how it is wired. `anatomy.py` judges that.

Everything is on the meta device, so nothing here costs memory.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from representation.architecture.attention import AttentionShape, is_causal, unknown_keywords
from representation.architecture.errors import Unservable
from representation.architecture.skeleton import use_attention
from representation.architecture.states import SequenceStates, States
from representation.architecture.weight_reads import WatchedTensors

TRACED_TOKENS = 7919
TRACED_OUTPUTS = 7907
"""Primes that no dimension of a model is likely to have: they mark the token axis of a shape."""

TRACING = "expertpool_trace"
OTHER_MASK = (1, 1, 2, 0)
"""The shape that stands for a mask that cannot be served."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Token axis of each tensor argument and of each tensor result; None if it has none.

    shape: of the first tensor argument, as traced.
    outputs_only: called only on the rows that need logits, not on all tokens.
    """

    inputs: tuple[int | None, ...]
    results: tuple[int | None, ...]
    shape: tuple[int, ...]
    outputs_only: bool

    @property
    def keeps_tokens(self) -> bool:
        """Tokens go in, and tokens come out."""
        return (
            bool(self.results) and None not in self.results and self.inputs[:1] not in ((), (None,))
        )

    @property
    def keeps_shape(self) -> bool:
        """One tensor in, one out, tokens along the same axis."""
        return len(self.inputs) == 1 and self.inputs == self.results


def _token_axis(tensor: torch.Tensor) -> int | None:
    marks = (TRACED_TOKENS, TRACED_OUTPUTS)
    found = [axis for axis, size in enumerate(tensor.shape) if size in marks]
    return found[0] if found else None


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a result: itself, or those of a tuple."""
    values = value if isinstance(value, tuple | list) else (value,)
    return [item for item in values if isinstance(item, torch.Tensor)]


class Trace:
    """What a run without data shows of a model.

    axes: token axes of every module that was called.   attentions, windows, sinks: as in `Anatomy`.
    states: what recurrent mixers keep.
    readers: modules whose own code reads the weights of another.   first_reads: the modules whose
    weights are read, numbered in the order of their first read.
    """

    def __init__(self, model: nn.Module) -> None:
        self._paths = {id(module): path for path, module in model.named_modules()}
        self.axes: dict[str, Axes] = {}
        self.attentions: dict[str, AttentionShape] = {}
        self.windows: dict[str, int | None] = {}
        self.sinks: dict[str, str] = {}
        self.states: dict[str, States] = {}
        self.readers: set[str] = set()
        self.first_reads: dict[str, int] = {}
        self._running: list[str] = []
        self._read: dict[tuple[int, int], list[str]] = {}
        self._kept: list[torch.Tensor] = []

    def note_start(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A forward pre-hook: the module's code runs from here on."""
        path = self._paths[id(module)]
        self._running.append(path)
        if type(module) is nn.Linear and args:
            self._kept.append(args[0])  # so that no other tensor gets its id
            self._read.setdefault((id(args[0]), args[0]._version), []).append(path)

    @property
    def siblings(self) -> tuple[tuple[str, ...], ...]:
        """Linear layers that read the same tensor, unchanged between, in the order of calls."""
        calls = Counter(path for paths in self._read.values() for path in paths)
        groups = (tuple(p for p in paths if calls[p] == 1) for paths in self._read.values())
        return tuple(group for group in groups if len(group) > 1)

    def is_running(self, path: str) -> bool:
        """Whether the code that runs now is that of the module there."""
        return bool(self._running) and self._running[-1] == path

    def note_read(self, path: str) -> None:
        """Note that a weight of the module there is read, and by whom if it is another module."""
        self.first_reads.setdefault(path, len(self.first_reads))
        if self._running[-1] != path:
            self.readers.add(self._running[-1])

    def note_call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """A forward hook: notes the token axes of the module's inputs and outputs."""
        self._running.pop()
        given = [*args, *kwargs.values()]
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        self.axes[self._paths[id(module)]] = Axes(
            inputs=tuple(_token_axis(tensor) for tensor in tensors),
            results=tuple(_token_axis(tensor) for tensor in tensors_in(out)),
            shape=tuple(tensors[0].shape) if tensors else (),
            outputs_only=any(TRACED_OUTPUTS in tensor.shape for tensor in tensors),
        )

    @property
    def mixers(self) -> tuple[str, ...]:
        """Paths of all token mixers."""
        return *self.attentions, *self.states

    def _note_mixer(self, path: str) -> None:
        if path in self.mixers:
            raise Unservable(f"{path} mixes tokens more than once in a step")

    def note_states(self, path: str, handed: SequenceStates) -> None:
        """A recurrent mixer has run. Raises: Unservable for a second call."""
        self._note_mixer(path)
        self.states[path] = handed.shapes

    def note_attention(
        self,
        module: nn.Module,
        shape: AttentionShape,
        window: int | None,
        sink: Any,
    ) -> None:
        """sink: the parameter of the module, or None.   Raises: Unservable for a second call."""
        path = self._paths[id(module)]
        self._note_mixer(path)
        self.attentions[path] = shape
        self.windows[path] = window
        for name, parameter in module.named_parameters(recurse=False):
            if parameter is sink:
                self.sinks[path] = name


def _traced_mask(
    *, mask_function: Callable[..., Any], local_size: int | None = None, **_: Any
) -> torch.Tensor:
    """Stands in for an attention mask. Its last dimension is the window; 0 means none.

    The argument `sliding_window` of attention does not tell: `generate()` uses the mask, and some
    architectures (Qwen2-MoE, PhiMoE) pass nothing else. A mask that is neither causal nor a causal
    window has another shape, and is refused only if a layer uses it.
    """
    if local_size == 0 or not is_causal(mask_function, local_size):  # of 0, it hides every token
        return torch.empty(OTHER_MASK, device="meta")
    return torch.empty((1, 1, 1, local_size or 0), device="meta")


def _traced_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    s_aux: torch.Tensor | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Stands in for attention in a run without data. query, key, value: (1, heads, T, D)"""
    unknown = unknown_keywords(module, others)
    if unknown is not None:
        raise Unservable(unknown)
    if attention_mask is not None and attention_mask.shape == OTHER_MASK:
        raise Unservable(
            f"the attention mask of {type(module).__name__} is neither causal nor a causal window"
        )
    if attention_mask is None or attention_mask.shape[:-1] != (1, 1, 1):
        raise Unservable(
            f"the attention mask of {type(module).__name__} is not one that transformers makes"
        )
    if not query.dtype == key.dtype == value.dtype:
        raise TypeError("queries, keys and values have different dtypes")
    window = attention_mask.shape[-1] or None
    shape = AttentionShape(query.shape[1], key.shape[1], key.shape[3], value.shape[3], softcap)
    module.expertpool_trace.note_attention(module, shape, window, s_aux)
    return query.new_empty((1, query.shape[2], query.shape[1], value.shape[-1])), None


def _traced_experts(
    experts: nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Stands in for the experts in a run without data.

    hidden_states: (T, H)   top_k_index, top_k_weights: (T, K)  ->  (T, H)
    """
    if hidden_states.dim() != 2 or not top_k_index.dim() == top_k_weights.dim() == 2:
        given = (hidden_states, top_k_index, top_k_weights)
        raise Unservable(
            f"{type(experts).__name__} gets tensors of {[x.dim() for x in given]} dimensions; "
            "each must have one row per token and no other dimension but its own"
        )
    return torch.empty_like(hidden_states)


AttentionInterface.register(TRACING, _traced_attention)
AttentionMaskInterface.register(TRACING, _traced_mask)
ALL_EXPERTS_FUNCTIONS.register(TRACING, _traced_experts)


def trace_of(
    model: Any,
    rotaries: dict[str, nn.Module],
    owners: dict[str, nn.Module],
    recurrent: Mapping[str, str],
) -> Trace:
    """Run the model once without data, and note its structure.

    owners: the modules that own weights, by path.   recurrent: the mixers that are not attention,
    and the name under which each takes a cache.   Raises: Unservable.
    """
    name = type(model).__name__
    trace = Trace(model)
    for module in model.modules():
        module.expertpool_trace = trace
    for path, module in rotaries.items():
        module.forward = _traced_rotary(name, path, module, model.config)
    use_attention(model, TRACING)
    model.set_experts_implementation(TRACING)
    try:
        every = torch.ones((1, TRACED_TOKENS), dtype=torch.int64)  # models ask whether all are 1
        with (
            torch.no_grad(),
            torch.device("meta"),
            _watched(model, owners, trace),
            _handed_over(model, recurrent, trace),
        ):
            model(
                input_ids=torch.zeros((1, TRACED_TOKENS), dtype=torch.int64),
                attention_mask=every,
                position_ids=torch.zeros((1, TRACED_TOKENS), dtype=torch.int64),
                use_cache=False,
                logits_to_keep=torch.zeros(TRACED_OUTPUTS, dtype=torch.int64),
            )
    except Unservable:
        raise
    except Exception as error:  # a model's code may raise anything where there is no data
        raise Unservable(f"{name}: its forward cannot be traced: {error}") from error
    finally:
        for module in rotaries.values():
            del module.forward
        for module in model.modules():
            del module.expertpool_trace
    return trace


@contextmanager
def _watched(model: nn.Module, owners: Mapping[str, nn.Module], trace: Trace) -> Iterator[None]:
    """Note inside the block which modules run, and whose code reads the owners' weights."""
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(trace.note_start))
        handles.append(module.register_forward_hook(trace.note_call, with_kwargs=True))
    kept = [(module, module._parameters, module._buffers) for module in owners.values()]
    for path, module in owners.items():
        on_read = partial(trace.note_read, path)
        is_own = partial(trace.is_running, path)
        module._parameters = WatchedTensors(module._parameters, on_read, is_own)
        module._buffers = WatchedTensors(module._buffers, on_read, is_own)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, parameters, buffers in kept:
            module._parameters, module._buffers = parameters, buffers


@contextmanager
def _handed_over(model: nn.Module, recurrent: Mapping[str, str], trace: Trace) -> Iterator[None]:
    """Inside the block, recurrent mixers are handed empty states, and the trace notes new ones."""
    handles: list[RemovableHandle] = []
    for path, argument in recurrent.items():
        states = SequenceStates()

        def hand_over(
            _: nn.Module,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            given: SequenceStates = states,
            name: str = argument,
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return args, kwargs | {name: given}

        def note(*_: Any, given: SequenceStates = states, at: str = path) -> None:
            trace.note_states(at, given)

        module = model.get_submodule(path)
        handles.append(module.register_forward_pre_hook(hand_over, with_kwargs=True))
        handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fresh_rotary(model: str, path: str, kind: type[nn.Module], config: Any) -> nn.Module:
    """A rotary module of that class, made from the config, on the CPU, in its initial state."""
    try:
        with torch.device("cpu"):
            return kind(config.get_text_config())
    except Exception as error:  # transformers raises many classes for configs that lack a field
        raise Unservable(f"{model}: {path} cannot be made from a config alone: {error}") from error


def _traced_rotary(model: str, path: str, module: nn.Module, config: Any) -> Callable[..., Any]:
    real = fresh_rotary(model, path, type(module), config)

    def forward(x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):
            positions = torch.zeros(position_ids.shape, dtype=torch.int64)
            out = real(torch.empty(0, dtype=x.dtype), positions, *args, **kwargs)
        if isinstance(out, torch.Tensor):
            return out.to("meta")
        return tuple(part.to("meta") for part in out)

    return forward
