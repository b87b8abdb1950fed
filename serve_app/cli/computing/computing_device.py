"""The option `--device` of commands that consolidate or measure, and what memory is free there."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.errors import WrongUse
from serve_app.cli.parsing import parser_of

if TYPE_CHECKING:
    import torch

    from consolidation.plan.memory_needs import Free

DEVICE_PATTERN = r"auto|cpu|cuda(:\d{1,3})?"


def device_name(value: object) -> str:
    """Raises: ValueError if it names no device."""
    if not re.fullmatch(DEVICE_PATTERN, str(value)):
        raise ValueError(f"{value!r} is not a device: give cpu, cuda, cuda:1, or auto")
    return str(value)


parse_device = parser_of(device_name)
ComputingDevice = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        parser=parse_device,
        help="What computes: cpu, cuda, one card as cuda:1, or auto: cuda if available.",
    ),
]


def computing_device(wanted: str) -> torch.device:
    """The device of a name, as this process knows it. Raises `WrongUse` or `ConfigError`."""
    import torch

    from serve_app.engine.device.device import require_device, resolve_device

    if not _is_elsewhere():
        require_device(wanted)
    elif wanted not in ("cpu", "cuda"):
        raise WrongUse(
            f"--device {wanted}: on the cluster of RAY_ADDRESS, Ray gives out cards: "
            "give cpu or cuda"
        )
    return torch.device(resolve_device(wanted))


def free_memory(device: torch.device) -> Free:
    """What a run may take on this machine; None where it computes on others, or cannot tell."""
    import torch

    from consolidation.plan.memory_needs import Free
    from serve_app.engine.device.free_memory import free_bytes

    if _is_elsewhere():
        return Free()
    host = free_bytes(torch.device("cpu"))
    if device.type == "cpu":
        return Free(host)
    # Tasks go to any card, unless one was chosen.
    number = device.index
    numbers = range(torch.cuda.device_count()) if number is None else [number]
    found = [free_bytes(torch.device("cuda", number)) for number in numbers]
    return Free(host, min((each for each in found if each is not None), default=None))


def _is_elsewhere() -> bool:
    return "RAY_ADDRESS" in os.environ
