"""Finds the compiled code. Its functions take addresses, so they know nothing of Python."""

import ctypes
import importlib.util
import logging
from dataclasses import dataclass
from functools import cache

import torch

logger = logging.getLogger(__name__)
NAME = "serve_app.engine.device.native._compiled"
NEEDS = ("avx2", "fma3")
INTERFACE = 2
"""Version of the functions, see crew.h. Code of another version would read what is not there."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None if it was not compiled or this CPU cannot run it.

    Also None, with a warning, if it was compiled from other sources than those that are here.
    """
    capabilities = torch.cpu.get_capabilities()
    found = importlib.util.find_spec(NAME)
    if found is None or found.origin is None or not all(map(capabilities.get, NEEDS)):
        return None
    code = ctypes.CDLL(found.origin)
    if not hasattr(code, "expertpool_interface") or code.expertpool_interface() != INTERFACE:
        logger.warning("%s is of another version: install the package again", found.origin)
        return None
    return code


@dataclass(frozen=True, slots=True)
class Native:
    """The compiled code, and how many threads may work on one call."""

    library: ctypes.CDLL
    num_threads: int


def native() -> Native | None:
    """The compiled code if available, for as many threads as the caller's operations have."""
    code = library()
    return None if code is None else Native(code, torch.get_num_threads())
