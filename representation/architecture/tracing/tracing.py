"""Runs a model once without data to see how it is wired. `anatomy.py` judges that.

Everything is on the meta device, so nothing here costs memory.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from representation.architecture.errors import Unservable
from representation.architecture.skeleton import use_attention
from representation.architecture.states import SequenceStates
from representation.architecture.tracing.trace import (
    TRACED_INPUTS,
    TRACED_OUTPUTS,
    TRACED_TOKENS,
    Trace,
)
from representation.architecture.tracing.traced_parts import TRACING
from representation.architecture.tracing.weight_reads import WatchedTensors
from representation.encoder_decoder.both_stacks import choose_outputs, is_encoder_decoder
from representation.encoder_decoder.position_bias import has_table
from representation.encoder_decoder.sparse_blocks import use_experts


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
    use_experts(model, TRACING)
    try:
        with (
            torch.no_grad(),
            torch.device("meta"),
            _watched(model, owners, trace),
            _biases_noted(model, trace),
            _handed_over(model, recurrent, trace),
        ):
            _run(model)
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


def _run(model: Any) -> None:
    """Call the model, inside `torch.device("meta")`."""
    ids = torch.zeros((1, TRACED_TOKENS), dtype=torch.int64)
    outputs = torch.zeros(TRACED_OUTPUTS, dtype=torch.int64)
    if is_encoder_decoder(model):
        inputs = torch.zeros((1, TRACED_INPUTS), dtype=torch.int64)
        handle = choose_outputs(model, lambda: outputs)
        try:
            model(input_ids=inputs, decoder_input_ids=ids, use_cache=False)
        finally:
            handle.remove()
        return
    every = torch.ones((1, TRACED_TOKENS), dtype=torch.int64, device="cpu")
    model(  # which asks whether all of `every` are 1
        input_ids=ids,
        attention_mask=every,
        position_ids=torch.zeros((1, TRACED_TOKENS), dtype=torch.int64),
        use_cache=False,
        logits_to_keep=outputs,
    )


@contextmanager
def _biases_noted(model: nn.Module, trace: Trace) -> Iterator[None]:
    """Inside the block, attention modules with a table of biases note what they make of it."""
    modules: list[Any] = [module for module in model.modules() if has_table(module)]

    def noted(module: Any) -> Callable[..., torch.Tensor]:
        def compute_bias(num_queries: int, num_keys: int, **_: Any) -> torch.Tensor:
            bias = torch.empty((1, module.n_heads, num_queries, num_keys), device="meta")
            return trace.note_bias(module, bias)

        return compute_bias

    for module in modules:
        module.compute_bias = noted(module)
    try:
        yield
    finally:
        for module in modules:
            del module.compute_bias


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
