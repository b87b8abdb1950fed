"""The device on which engines run by default."""

import torch


def default_device() -> str:
    """CUDA if there is a device, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
