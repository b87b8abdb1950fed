"""Replaces modules of a stock model by leaves, rotaries, the pool and paged attention.

Runs nothing: `packed.py` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from representation.architecture.anatomy import Anatomy
from representation.architecture.skeleton import use_attention
from representation.encoder_decoder.sparse_blocks import use_experts
from serve_app.engine.attention.forms import FormChooser, makers
from serve_app.engine.attention.paged import ATTENTION, PagedAttention
from serve_app.engine.attention.store import KVLayer
from serve_app.engine.attention.whole import WholeAttention
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.device.native.library import Native
from serve_app.engine.experts.pool import EXPERTS, PoolLayer
from serve_app.engine.experts.shelves import LayerShape
from serve_app.engine.experts.shelving import ShelfRows
from serve_app.engine.experts.together_choice import make_together
from serve_app.engine.leaves.fitting import Fitter
from serve_app.engine.leaves.leaves import Leaf
from serve_app.engine.model.rotary import PackedRotary
from serve_app.engine.model.stock_forward import attach_biases
from serve_app.engine.stacks.stacks import Stacks
from serve_app.engine.states.mixer_leaves import MixerLeaves
from serve_app.engine.states.state_store import StateLayer, StateStore
from serve_app.engine.step.step import CurrentStep


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much room a packed model has.

    num_places: backbones on the device.   backbone_rows: of each stack of their tensors; None: one
    for each place.   shelves: of each layer's pool, in layer order.
    num_blocks, block_size: of the KV store; block size in tokens.   state_rows: of each store of
    state. There is one more block and one more row, which no sequence has: padding rows of a step
    write there.
    """

    num_places: int
    shelves: tuple[ShelfRows, ...]
    num_blocks: int
    block_size: int
    backbone_rows: Mapping[str, int] | None = None
    state_rows: int = 0


def replace_leaves(anatomy: Anatomy, fitter: Fitter, joined: Mapping[str, Leaf]) -> None:
    """Replace each unit by a leaf. joined: leaves that exist already, by path."""
    for path, axes in anatomy.units.items():
        if path in joined:
            anatomy.model.set_submodule(path, joined[path])
        elif path not in anatomy.recurrent:
            module = anatomy.model.get_submodule(path)
            leaf = fitter.leaf(path, module, names_inside(anatomy, path), axes)
            anatomy.model.set_submodule(path, leaf)


def names_inside(anatomy: Anatomy, path: str) -> dict[str, str]:
    """The names of a module's tensors, its parts' too -> their names in a checkpoint."""
    module = anatomy.model.get_submodule(path)
    inside = [f"{path}.{name}" for name in module.state_dict()]
    return {name[len(path) + 1 :]: name for name in inside if name in anatomy.tensors}


def spread_vectors(anatomy: Anatomy, step: CurrentStep, stacks: Stacks) -> None:
    """For attention and modules around it with own vectors, take those of each token's backbone."""
    sinks = {path: (name,) for path, name in anatomy.sinks.items()}
    for path, names in [*sinks.items(), *anatomy.vectors.items()]:
        module = anatomy.model.get_submodule(path)
        for name in names:
            room = module._parameters if name in module._parameters else module._buffers
            del room[name]
            module.register_forward_pre_hook(_spread(step, stacks, f"{path}.{name}", name))


def _spread(step: CurrentStep, stacks: Stacks, stack: str, attribute: str) -> Any:
    """A hook that sets a module's own vector by token: (T, p)."""

    def hook(module: nn.Module, _: Any) -> None:
        held = stacks.ready(stack)
        rows = held.rows.by_token(step.view.tokens)  # (T,)
        setattr(module, attribute, held.tensor.index_select(0, rows))  # (T, *p)

    return hook


def replace_rotaries(anatomy: Anatomy, step: CurrentStep) -> dict[str, PackedRotary]:
    """Replace each rotary module by one for all models. -> the new ones by path"""
    rotaries = {
        path: PackedRotary(step, getattr(module, "config", None))
        for path, module in anatomy.rotaries.items()
    }
    for path, rotary in rotaries.items():
        anatomy.model.set_submodule(path, rotary)
    return rotaries


def attach_pool(
    anatomy: Anatomy,
    step: CurrentStep,
    shelves: Sequence[ShelfRows],
    multiplier: Multiplier,
    *,
    dtype: torch.dtype,
    device: torch.device,
    native: Native | None,
    uses_int8: bool,
) -> dict[str, PoolLayer]:
    """Let experts modules read layers of a pool. shelves: of each. -> the layers by path

    native: compiled code, where there is any.   uses_int8: see `CompiledExperts`
    """
    pool = {}
    layers = [
        (anatomy.model.get_submodule(path), LayerShape.of(experts), rows)
        for (path, experts), rows in zip(anatomy.experts.items(), shelves, strict=True)
    ]
    make = make_together(
        layers, multiplier, native, dtype=dtype, device=device, uses_int8=uses_int8
    )
    for path, (module, shape, rows) in zip(anatomy.experts, layers, strict=True):
        pool[path] = PoolLayer(
            step,
            shape,
            rows,
            multiplier,
            dtype=dtype,
            device=device,
            together=make(),
            stream=anatomy.experts[path].stream,
        )
        module._parameters.clear()
        module.pool_layer = pool[path]
    use_experts(anatomy.model, EXPERTS)
    return pool


def attach_attention(
    anatomy: Anatomy,
    step: CurrentStep,
    stacks: Stacks,
    sizes: Sizes,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, PagedAttention]:
    """Let attention modules read paged stores of keys and values. -> their attention by path

    Those of encoders store nothing.
    """
    attentions = {}
    chooser = FormChooser(makers(device), block_size=sizes.block_size, dtype=dtype, device=device)
    biases = attach_biases(anatomy, stacks)
    for path, shape in anatomy.attentions.items():
        kind = anatomy.kinds[path]
        bias = None if kind.bias is None else biases[kind.bias]
        module = anatomy.model.get_submodule(path)
        if kind.sees == "input":
            module.expertpool_attention = WholeAttention(step, bias)
            continue
        form = chooser.form(
            shape, kind.window, sinks=path in anatomy.sinks, biased=bias is not None
        )
        store = KVLayer(
            shape,
            num_blocks=sizes.num_blocks + 1,
            block_size=sizes.block_size,
            dtype=dtype,
            device=device,
        )
        attentions[path] = PagedAttention(step, store, form, kind, bias)
        module.expertpool_attention = attentions[path]
    use_attention(anatomy.model, ATTENTION)
    return attentions


def attach_states(
    anatomy: Anatomy,
    step: CurrentStep,
    stacks: Stacks,
    sizes: Sizes,
    fitter: Fitter,
) -> StateStore:
    """Replace recurrent mixers by leaves with a store of state. -> the stores"""
    layers = {}
    maker, num_rows = MixerLeaves(fitter), sizes.state_rows + 1
    for path, mixer in anatomy.recurrent.items():
        layers[path] = StateLayer(mixer.states, num_rows, fitter.device)
        module, names = anatomy.model.get_submodule(path), names_inside(anatomy, path)
        leaf = maker.leaf(step, stacks, names, path, module, mixer, layers[path])
        anatomy.model.set_submodule(path, leaf)
    return StateStore(layers, num_rows, fitter.device)


class Remembered:
    """A config whose fields are looked up once. Never written.

    Modules read some in every call, and a lookup in a config of transformers takes 3 µs.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._config, name)
        setattr(self, name, value)
        return value


def remember_configs(model: nn.Module) -> None:
    """For modules that are part of models, once nothing more is set in their config."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig) and not isinstance(module, PreTrainedModel):
            vars(module)["config"] = Remembered(config)
