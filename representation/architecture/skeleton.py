"""A model without weights: transformers' own classes on the meta device. Costs no memory."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from representation.architecture.config import is_wrapper, model_classes, tower_fields
from representation.architecture.errors import Unservable
from representation.encoder_decoder.sparse_blocks import rewrite_sparse_blocks


def meta_model(config: Any, dtype: torch.dtype, attention: str | None = "eager") -> Any:
    """The config's causal language model on the meta device; of a wrapper, without other towers.

    attention: by which function of transformers; None: the one it takes by itself.
    Raises: Unservable if transformers cannot build one, or the config belongs to another class.
    """
    model = whole_model(config, dtype, attention)
    if is_wrapper(config):
        _drop_towers(model)
    rewrite_sparse_blocks(model)
    _fill_numbers(model)
    return model


def whole_model(config: Any, dtype: torch.dtype, attention: str | None = "eager") -> Any:
    """Like `meta_model`, with the towers of a wrapper that are not served."""
    kinds = {kind.__name__: kind for kind in model_classes(config)}
    wanted = getattr(config, "architectures", None) or list(kinds)
    name = next((name for name in wanted if name in kinds), None)
    if name is None:
        names = " or ".join(kinds)
        raise Unservable(f"it is a {wanted[0]}; only the language model {names} can be served")
    try:
        with torch.device("meta"):
            model = kinds[name]._from_config(config, dtype=dtype, attn_implementation=attention)
    except Exception as error:  # transformers raises many classes for configs it cannot build
        raise Unservable(f"transformers cannot build a {config.model_type}: {error}") from error
    return model.eval()


def _drop_towers(model: Any) -> None:
    """Take out of a wrapper all weights that are not of its decoder or its ends.

    If the text model needs one of them after all, a run without data fails, which names it.
    """
    ends = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    of_text = [path for path, module in model.named_modules() if module in ends]
    for path, module in list(model.named_modules()):
        inside = f"{path}." if path else ""
        if module in ends or not any(kept.startswith(inside) for kept in of_text):
            continue  # within the text model, or within a tower
        for name in list(own_tensors(module)):
            room = module._parameters if name in module._parameters else module._buffers
            room[name] = None
        for name, child in list(module.named_children()):
            holds = any(f"{inside}{name}." in f"{kept}." for kept in of_text)
            if not holds and child.state_dict():
                setattr(module, name, None)


def _fill_numbers(model: Any) -> None:
    """Give buffers of one number, which no checkpoint has, the value that loading gives them."""
    for module in model.modules():
        names = [name for name in hidden_buffers(module) if module._buffers[name].dim() == 0]
        for name in names:
            module._buffers[name] = torch.full_like(module._buffers[name], math.nan, device="cpu")
        if names:
            with torch.no_grad():
                model._init_weights(module)


def hidden_buffers(module: nn.Module) -> list[str]:
    """Names of a module's own buffers that are in no checkpoint."""
    held = {name for name, buffer in module._buffers.items() if buffer is not None}
    return sorted(held & module._non_persistent_buffers_set)


def use_attention(model: Any, function: str) -> None:
    """Let the model compute attention by a function of transformers' interface.

    Towers that are not there keep theirs in the config: transformers would warn of any other.
    """
    towers = tower_fields(model.config)
    own = {name: function for name in model.config.sub_configs if name not in towers}
    model.set_attn_implementation({"": function, **own})


def tensor_dtypes(model: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype that each tensor of the state dict has after `from_pretrained(dtype=dtype)`."""
    plan = model._get_dtype_plan(dtype)
    dtypes = {}
    for name, tensor in model.state_dict().items():
        kept = [kept for pattern, kept in plan.items() if pattern in name.split(".")]
        dtypes[name] = kept[0] if kept else tensor.dtype
    return dtypes


def own_tensors(module: nn.Module) -> Iterator[str]:
    """Names of the parameters and persistent buffers that the module itself owns."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield name
