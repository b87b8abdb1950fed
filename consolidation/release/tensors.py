"""Tensors to the bytes of a blob and back. The same tensors always give the same bytes."""

import hashlib
from collections.abc import Mapping

import safetensors.torch
import torch


def encode_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The safetensors file of these tensors; the order of the mapping makes no difference."""
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return safetensors.torch.save(ready)


def decode_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises `ValueError` if it is not one."""
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"not a safetensors file: {error}") from error


def tensor_digest(tensor: torch.Tensor) -> str:
    """Equal for tensors whose dtype, shape and values are, to the bit."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    found.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
