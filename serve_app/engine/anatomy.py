"""Where the experts, attentions, rotary embeddings and weight-bearing leaves of a model sit.

Looks at a transformers model on the meta device, so nothing here costs memory. Builds no
replacement: `leaves.py` and `packed.py` do.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
)
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from serve_app.engine.kv import AttentionShape
from serve_app.errors import Unsupported

TRACED_TOKENS = 7919
TRACED_OUTPUTS = 7907
"""Primes that no dimension of a model is likely to have: they mark the token axis of a shape."""

TRACING = "expertpool_trace"
LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class Axes:
    """Token axis of each tensor argument and of each tensor result; None where there is none.

    shape: of the first tensor argument, as traced.
    outputs_only: called on the rows that want logits, not on all tokens.
    """

    inputs: tuple[int | None, ...]
    results: tuple[int | None, ...]
    shape: tuple[int, ...]
    outputs_only: bool

    @property
    def keeps_shape(self) -> bool:
        """One tensor in, one out, tokens along the same axis."""
        return len(self.inputs) == 1 and self.inputs == self.results


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A model's parts by qualified name. `model` is on the meta device, weights and all.

    experts: modules that go through the experts interface.
    attentions: modules that go through the attention interface, and what they store.
    windows: how many of the last tokens each of those may see; None where all.
    rotaries: parameterless modules that turn positions into cos and sin.
    units: modules that own weights and run on packed tokens, with their token axes; the largest
    that must be replaced as a whole, so none lies inside another.
    sinks: attention modules with a parameter of their own, handed to attention as `s_aux`.
    tensors: every parameter and persistent buffer outside the experts -> (shape, dtype).
    """

    model: Any
    experts: dict[str, nn.Module]
    attentions: dict[str, AttentionShape]
    windows: dict[str, int | None]
    rotaries: dict[str, nn.Module]
    units: dict[str, Axes]
    sinks: dict[str, str]
    tensors: dict[str, tuple[torch.Size, torch.dtype]]


def config_of(fields: Mapping[str, Any]) -> Any:
    """The transformers config of a manifest's `config`.

    Raises: Unsupported for a model type that this transformers does not know.
    """
    model_type = str(fields.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise Unsupported(f"model type {model_type!r}: this transformers does not know it")
    return CONFIG_MAPPING[model_type].from_dict(dict(fields))


def meta_model(config: Any, dtype: torch.dtype) -> Any:
    """The config's causal language model on the meta device.

    Raises: Unsupported where transformers cannot make one.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="eager"
            )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Unsupported(f"model type {config.model_type!r}: {error}") from error
    return model.eval()


def tensor_dtypes(model: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype that each tensor of the state dict has after `from_pretrained(dtype=dtype)`."""
    plan = model._get_dtype_plan(dtype)
    dtypes = {}
    for name, tensor in model.state_dict().items():
        kept = [kept for pattern, kept in plan.items() if pattern in name.split(".")]
        dtypes[name] = kept[0] if kept else tensor.dtype
    return dtypes


def study(config: Any, dtype: torch.dtype) -> Anatomy:
    """Find the parts of the config's model.

    Raises: Unsupported, naming the part, where the model does not fit the engine.
    """
    model = meta_model(config, dtype)
    name = type(model).__name__
    _refuse_layer_types(name, config)
    modules = dict(model.named_modules())
    experts = {path: module for path, module in modules.items() if hasattr(module, "is_transposed")}
    if not experts:
        raise Unsupported(f"{name} has no experts that go through the experts interface")
    for path, module in experts.items():
        if getattr(module, "has_post_expert_norm", False):
            raise Unsupported(f"{name}: {path} has a norm after each expert")
        if any(True for _ in module.children() if list(_.parameters())):
            raise Unsupported(f"{name}: {path} has weights below the experts module")
    rotaries = {path: module for path, module in modules.items() if _is_rotary(module)}
    _refuse_hidden_buffers(name, modules, set(rotaries))
    owners = _owners(model, set(experts))
    trace = _trace(model, config, rotaries, owners)
    units = _units(name, owners, trace)
    dtypes = tensor_dtypes(model, dtype)
    inside = tuple(f"{path}." for path in experts)
    tensors = {
        key: (tensor.shape, dtypes[key])
        for key, tensor in model.state_dict().items()
        if not key.startswith(inside)
    }
    return Anatomy(
        model, experts, trace.attentions, trace.windows, rotaries, units, trace.sinks, tensors
    )


def _refuse_layer_types(name: str, config: Any) -> None:
    for kind in getattr(config, "layer_types", None) or ():
        if kind not in LAYER_TYPES:
            raise Unsupported(f"{name}: layers of type {kind!r}; the engine has attention only")


def _is_rotary(module: nn.Module) -> bool:
    """No parameters, and frequencies in buffers that no checkpoint carries."""
    return (
        any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
        and next(module.parameters(), None) is None
    )


def _refuse_hidden_buffers(name: str, modules: dict[str, nn.Module], rotaries: set[str]) -> None:
    for path, module in modules.items():
        hidden = sorted(module._non_persistent_buffers_set & set(module._buffers))
        if hidden and path not in rotaries:
            raise Unsupported(f"{name}: {path} computes a buffer {hidden[0]!r} of its own")


def own_tensors(module: nn.Module) -> Iterator[str]:
    """Names of the parameters and persistent buffers that the module itself owns."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield name


def _owners(model: nn.Module, experts: set[str]) -> dict[str, nn.Module]:
    """Modules outside the experts that own weights."""
    return {
        path: module
        for path, module in model.named_modules()
        if path not in experts and any(True for _ in own_tensors(module))
    }


def _token_axis(tensor: torch.Tensor) -> int | None:
    marks = (TRACED_TOKENS, TRACED_OUTPUTS)
    found = [axis for axis, size in enumerate(tensor.shape) if size in marks]
    return found[0] if found else None


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a result: itself, or those of a tuple."""
    values = value if isinstance(value, tuple | list) else (value,)
    return [item for item in values if isinstance(item, torch.Tensor)]


class _Trace:
    """What a run without data shows of a model: token axes, attentions, windows, sinks."""

    def __init__(self, model: nn.Module) -> None:
        self._paths = {id(module): path for path, module in model.named_modules()}
        self.axes: dict[str, Axes] = {}
        self.attentions: dict[str, AttentionShape] = {}
        self.windows: dict[str, int | None] = {}
        self.sinks: dict[str, str] = {}

    def note_call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """A forward hook: where the tokens are in what a module is given and gives."""
        given = [*args, *kwargs.values()]
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        self.axes[self._paths[id(module)]] = Axes(
            inputs=tuple(_token_axis(tensor) for tensor in tensors),
            results=tuple(_token_axis(tensor) for tensor in tensors_in(out)),
            shape=tuple(tensors[0].shape) if tensors else (),
            outputs_only=any(TRACED_OUTPUTS in tensor.shape for tensor in tensors),
        )

    def note_attention(
        self,
        module: nn.Module,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int | None,
        sink: Any,
    ) -> None:
        """key: (1, H, T, Dk)   value: (1, H, T, Dv)   sink: the module's parameter, or None"""
        path = self._paths[id(module)]
        self.attentions[path] = AttentionShape(key.shape[1], key.shape[3], value.shape[3])
        self.windows[path] = window
        for name, parameter in module.named_parameters(recurse=False):
            if parameter is sink:
                self.sinks[path] = name


def _traced_mask(*, local_size: int | None = None, **_: Any) -> torch.Tensor:
    """Stands in for an attention mask; its last dimension says the window, 0 that there is none.

    What a model passes to attention as `sliding_window` does not say it: `generate()` goes by the
    mask, and some architectures (Qwen2-MoE, PhiMoE) pass nothing else.
    """
    return torch.empty((1, 1, 1, local_size or 0), device="meta")


def _traced_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *_: Any,
    **kw: Any,
) -> tuple[torch.Tensor, None]:
    """Stands in for attention in a run without data."""
    if attention_mask is None or attention_mask.shape[:-1] != (1, 1, 1):
        raise ValueError("its attention mask is not one that transformers makes")
    window = attention_mask.shape[-1] or None
    module.expertpool_trace.note_attention(module, key, value, window, kw.get("s_aux"))
    return query.new_empty((1, query.shape[2], query.shape[1], value.shape[-1])), None


def _traced_experts(_: nn.Module, hidden: torch.Tensor, *__: Any, **___: Any) -> torch.Tensor:
    """Stands in for the experts in a run without data."""
    return torch.empty_like(hidden)


AttentionInterface.register(TRACING, _traced_attention)
AttentionMaskInterface.register(TRACING, _traced_mask)
ALL_EXPERTS_FUNCTIONS.register(TRACING, _traced_experts)


def _trace(
    model: Any, config: Any, rotaries: dict[str, nn.Module], owners: dict[str, nn.Module]
) -> _Trace:
    """Run the model once without data, and note what there is to see."""
    name = type(model).__name__
    trace = _Trace(model)
    handles = [
        module.register_forward_hook(trace.note_call, with_kwargs=True)
        for module in owners.values()
    ]
    for module in model.modules():
        module.expertpool_trace = trace
    for path, module in rotaries.items():
        module.forward = _traced_rotary(name, path, module, config)
    model.set_attn_implementation(TRACING)
    model.set_experts_implementation(TRACING)
    try:
        with torch.no_grad(), torch.device("meta"):
            model(
                input_ids=torch.zeros((1, TRACED_TOKENS), dtype=torch.int64),
                attention_mask=torch.ones((1, TRACED_TOKENS), dtype=torch.int64),
                position_ids=torch.zeros((1, TRACED_TOKENS), dtype=torch.int64),
                use_cache=False,
                logits_to_keep=torch.zeros(TRACED_OUTPUTS, dtype=torch.int64),
            )
    except (NotImplementedError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise Unsupported(f"{name}: its forward cannot be traced: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
        for module in rotaries.values():
            del module.forward
        for module in model.modules():
            del module.expertpool_trace
    return trace


def fresh_rotary(model: str, path: str, kind: type[nn.Module], config: Any) -> nn.Module:
    """A rotary module of that class as the config makes it, on the CPU, in its first state."""
    try:
        with torch.device("cpu"):
            return kind(config)
    except (TypeError, AttributeError, KeyError) as error:
        raise Unsupported(f"{model}: {path} cannot be made from a config alone: {error}") from error


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


def _units(name: str, owners: dict[str, nn.Module], trace: _Trace) -> dict[str, Axes]:
    """The owners to replace, outermost first; checks that each can be."""
    units: dict[str, Axes] = {}
    for path, module in owners.items():
        if any(path.startswith(f"{unit}.") for unit in units):
            continue
        own = list(own_tensors(module))
        if own == [trace.sinks.get(path)]:
            continue
        if any(other == path or other.startswith(f"{path}.") for other in trace.attentions):
            raise Unsupported(f"{name}: {path} mixes tokens and owns {own[0]!r} itself")
        if path not in trace.axes:
            raise Unsupported(f"{name}: {path} owns {own[0]!r} but is not called as a module")
        found = trace.axes[path]
        if not found.results or None in found.results or found.inputs[:1] in ((), (None,)):
            raise Unsupported(f"{name}: {path} does not map tokens to tokens")
        units[path] = found
    return units
