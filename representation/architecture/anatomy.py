"""Finds the experts, attentions, rotary embeddings and leaves with weights of a model.

Looks at a transformers model on the meta device, so nothing here costs memory. Builds no
replacement: the engine does.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from representation.architecture.attention import AttentionKind, AttentionShape
from representation.architecture.config import decoder_beginning, rope_fields
from representation.architecture.errors import Unservable
from representation.architecture.experts import ExpertsModule, find_experts
from representation.architecture.mixer_parts import RecurrentMixer, plain_functions, recurrent_mixer
from representation.architecture.mixers import token_mixers
from representation.architecture.skeleton import (
    hidden_buffers,
    meta_model,
    own_tensors,
    tensor_dtypes,
)
from representation.architecture.spreading import spread_vectors
from representation.architecture.tracing.trace import Axes, Trace
from representation.architecture.tracing.tracing import trace_of
from representation.architecture.trying import takes_parts
from representation.architecture.widening import widen
from representation.encoder_decoder.both_stacks import is_encoder_decoder


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A model's parts by qualified name. `model` is on the meta device, weights and all.

    experts: modules that go through the experts interface.
    attentions: modules that go through the attention interface, and what they store.
    recurrent: the other token mixers, and the state that each keeps of a sequence.
    kinds: which keys the tokens of each of those see.
    rotaries: parameterless modules that turn positions into cos and sin.
    units: modules that own weights, or read those of a part, and run on packed tokens, with their
    token axes; the largest that must be replaced as a whole, so none lies inside another.
    sinks: attention modules with their own parameter, passed to attention as `s_aux`.
    vectors: modules around attention with vectors of their own, which scale or shift each token.
    tensors: every parameter and persistent buffer outside the experts -> (shape, dtype), by
    modules in the order of the forward.
    siblings: those of the units that are linear layers and read the same tensor, together.
    """

    config: Any
    model: Any
    experts: dict[str, ExpertsModule]
    attentions: dict[str, AttentionShape]
    kinds: dict[str, AttentionKind]
    recurrent: dict[str, RecurrentMixer]
    rotaries: dict[str, nn.Module]
    units: dict[str, Axes]
    sinks: dict[str, str]
    vectors: dict[str, tuple[str, ...]]
    tensors: dict[str, tuple[torch.Size, torch.dtype]]
    siblings: tuple[tuple[str, ...], ...]

    @property
    def has_encoder(self) -> bool:
        """Whether what sequences begin with is the input of an encoder."""
        return any(kind.sees == "encoder" for kind in self.kinds.values())

    @property
    def prompt_at_once(self) -> bool:
        """Whether a prompt must be computed in one step: as the input of an encoder, or as a mixer
        cannot go on with more than one token."""
        return self.has_encoder or not all(mixer.takes_parts for mixer in self.recurrent.values())


def study(config: Any, dtype: torch.dtype, in_float32: Collection[str] = frozenset()) -> Anatomy:
    """Find the parts of the config's model.

    in_float32: tensors that a checkpoint has in float32; they are, where the model's code can use
    them so beside others in `dtype`.

    Raises: Unservable, naming the part, if the engine cannot run the model.
    """
    model = meta_model(config, dtype)
    name = type(model).__name__
    modules = dict(model.named_modules())
    experts = find_experts(model)
    if is_encoder_decoder(model):
        _require_both(name, config, experts)
    mixers = token_mixers(model)
    rotaries = {path: module for path, module in modules.items() if is_rotary(module)}
    _refuse_other_ropes(name, rotaries, config)
    _refuse_hidden_buffers(name, modules, set(rotaries))
    owners = _owners(model, set(experts))
    traced = partial(trace_of, model, rotaries, owners, mixers.recurrent)
    with plain_functions(modules[path] for path in mixers.recurrent):
        trace = traced()
        _require_attention(name, mixers.attentions, trace)
        recurrent = _recurrent(name, modules, mixers.recurrent, owners, trace)
        if dtype != torch.float32:
            held = {key for module in owners for key in _tensors_at(model, module)}
            widen(model, held & set(in_float32), traced)
        mixing = owners.keys() | trace.readers | trace.states.keys()
        whole = {path: module for path, module in modules.items() if path in mixing}
        vectors = spread_vectors(model, trace, traced)
    units = _units(name, whole, trace, vectors)
    dtypes = tensor_dtypes(model, dtype)
    inside = tuple(f"{path}." for path in experts)
    state = model.state_dict()
    tensors = {
        key: (state[key].shape, dtypes[key])
        for key in sorted(state, key=lambda key: _first_read(key, trace))
        if not key.startswith(inside)
    }
    return Anatomy(
        config,
        model,
        {path: replace(one, stream=trace.axes[path].stream) for path, one in experts.items()},
        trace.attentions,
        trace.kinds,
        recurrent,
        rotaries,
        units,
        trace.sinks,
        vectors,
        tensors,
        siblings=tuple(group for group in trace.siblings if all(path in units for path in group)),
    )


def _require_attention(name: str, paths: Collection[str], trace: Trace) -> None:
    """Raises: Unservable if attention was not seen at work."""
    for path in paths:
        if path not in trace.attentions:
            raise Unservable(f"{name}: {path} does not call attention")


def _recurrent(
    name: str,
    modules: Mapping[str, nn.Module],
    arguments: Mapping[str, str],
    owners: Collection[str],
    trace: Trace,
) -> dict[str, RecurrentMixer]:
    """The recurrent mixers, each of which is tried. arguments: the names of their caches.

    Raises: Unservable.
    """
    found = {}
    for path, states in trace.states.items():
        if not states:
            raise Unservable(f"{name}: {path} takes a cache and keeps nothing in it")
        mixer, argument, width = modules[path], arguments[path], trace.axes[path].shape[-1]
        parts = takes_parts(path, mixer, argument, width)
        found[path] = recurrent_mixer(path, mixer, argument, owners, trace, takes_parts=parts)
    return found


def _require_both(name: str, config: Any, experts: Collection[str]) -> None:
    """Raises: Unservable for an encoder and a decoder that cannot be run as they would be alone."""
    decoder_beginning(config)
    for stack in ("encoder", "decoder"):
        if not any(path.startswith(f"{stack}.") for path in experts):
            raise Unservable(f"{name}: its {stack} has no experts")
    if getattr(config, "expert_capacity", 1) < 1:
        raise Unservable(f"{name}: its experts have room for no token (expert_capacity)")


def _tensors_at(model: nn.Module, path: str) -> list[str]:
    """Names of the tensors that the module there owns."""
    inside = f"{path}." if path else ""
    return [inside + name for name in own_tensors(model.get_submodule(path))]


def _first_read(tensor: str, trace: Trace) -> int:
    """When a run reaches the module of a tensor; after all others if it never does."""
    return trace.first_reads.get(tensor.rpartition(".")[0], len(trace.first_reads))


def is_rotary(module: nn.Module) -> bool:
    """No parameters, and frequencies in buffers that no checkpoint carries."""
    return (
        any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
        and next(module.parameters(), None) is None
    )


def _refuse_other_ropes(name: str, rotaries: dict[str, nn.Module], config: Any) -> None:
    """The engine makes a rotary module from each model's config, so this must give the same."""
    fields = rope_fields(config)
    for path, module in rotaries.items():
        own: Any = getattr(module, "config", None)
        if own is not None and rope_fields(own) != fields:
            raise Unservable(f"{name}: {path} has rope parameters that are not the config's")


def _refuse_hidden_buffers(name: str, modules: dict[str, nn.Module], rotaries: set[str]) -> None:
    for path, module in modules.items():
        hidden = [key for key in hidden_buffers(module) if not _has_number(module._buffers[key])]
        if hidden and path not in rotaries:
            raise Unservable(f"{name}: {path} computes its own buffer {hidden[0]!r}")


def _has_number(buffer: torch.Tensor | None) -> bool:
    """Whether a buffer is one number, and what it is follows from the config."""
    return buffer is not None and not buffer.is_meta and not bool(buffer.isnan().any())


def _owners(model: nn.Module, experts: set[str]) -> dict[str, nn.Module]:
    """Modules outside the experts that own weights."""
    return {
        path: module
        for path, module in model.named_modules()
        if path not in experts and any(True for _ in own_tensors(module))
    }


def _units(
    name: str,
    modules: dict[str, nn.Module],
    trace: Trace,
    vectors: Collection[str],
) -> dict[str, Axes]:
    """The modules to replace, outermost first; checks that each can be.

    vectors: modules with nothing of their own but vectors that can be spread over the tokens.
    """
    units: dict[str, Axes] = {}
    for path, module in modules.items():
        if any(path.startswith(f"{unit}.") for unit in units):
            continue
        own = [*own_tensors(module), "weights of a part"]
        if own[:-1] == [trace.sinks.get(path)] or path in vectors:
            continue
        inside = f"{path}." if path else ""
        if path not in trace.states and any(f"{m}.".startswith(inside) for m in trace.mixers):
            raise Unservable(f"{name}: {path} mixes tokens and uses {own[0]!r} itself")
        if path not in trace.axes and _is_elsewhere(path, module, modules, trace):
            continue
        if path not in trace.axes:
            raise Unservable(f"{name}: {path} owns {own[0]!r} but is not called as a module")
        found = trace.axes[path]
        if not found.keeps_tokens:
            raise Unservable(f"{name}: {path} does not map tokens to tokens")
        units[path] = found
    return units


def _is_elsewhere(
    path: str, module: nn.Module, modules: dict[str, nn.Module], trace: Trace
) -> bool:
    """Whether what it owns is read as another's: as a table of biases, or under a tied name."""
    if path.rpartition(".")[0] in {kind.bias for kind in trace.kinds.values()}:
        return True
    called = [other for name, other in modules.items() if name in trace.axes]
    used = {id(tensor) for other in called for tensor in other.parameters(recurse=False)}
    return all(id(getattr(module, own)) in used for own in own_tensors(module))


def vocabulary_names(config: Any, anatomy: Anatomy) -> tuple[str, ...]:
    """Names of the tensors whose first dimension is the vocabulary."""
    longer = type(config).from_dict(config.to_dict())
    longer.get_text_config().vocab_size += 1
    grown = meta_model(longer, torch.float32).state_dict()
    return tuple(name for name, (shape, _) in anatomy.tensors.items() if grown[name].shape != shape)
