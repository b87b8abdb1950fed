"""A model without weights: transformers' own classes on the meta device. Costs no memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from representation.architecture.errors import Unservable


def meta_model(config: Any, dtype: torch.dtype, attention: str | None = "eager") -> Any:
    """The config's causal language model on the meta device.

    attention: by which function of transformers; None: the one it takes by itself.
    Raises: Unservable if transformers cannot build one, or the config belongs to another class.
    """
    try:
        kind: Any = AutoModelForCausalLM._model_mapping[CONFIG_MAPPING[config.model_type]]
        with torch.device("meta"):
            model = kind._from_config(config, dtype=dtype, attn_implementation=attention)
    except Exception as error:  # transformers raises many classes for configs it cannot build
        raise Unservable(f"transformers cannot build a {config.model_type}: {error}") from error
    name = type(model).__name__
    wanted = getattr(config, "architectures", None) or [name]
    if name not in wanted:
        raise Unservable(f"it is a {wanted[0]}; only the language model {name} can be served")
    return model.eval()


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
