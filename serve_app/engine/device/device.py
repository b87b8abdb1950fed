"""On which device an engine computes. Moves nothing there."""

import torch

from serve_app.errors import ConfigError


def resolve_device(wanted: str) -> str:
    """`auto`: CUDA where there is such a device, else the CPU. Others need not be here."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def require_device(wanted: str) -> None:
    """Raises: ConfigError where CUDA is wanted, and there is no such device here."""
    device = torch.device(resolve_device(wanted))
    if device.type != "cuda":
        return
    num = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not num:
        raise ConfigError(f"device: {wanted!r}, and there is no such device here")
    if device.index is not None and device.index >= num:
        there = ", ".join(f"cuda:{number}" for number in range(num))
        raise ConfigError(f"device: {wanted!r}, and the only ones here are {there}")
