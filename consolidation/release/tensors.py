"""Tensors as the bytes of a blob and back. The same tensors always give the same bytes."""

from collections.abc import Mapping

import safetensors.torch
import torch


def encode_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The safetensors file that holds these tensors, in any order of the mapping."""
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return safetensors.torch.save(ready)


def decode_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises `ValueError` when it is not one."""
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"not a safetensors file: {error}") from error
