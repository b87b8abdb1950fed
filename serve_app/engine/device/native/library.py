"""Finds the compiled code. Its functions are called with addresses, so it knows no Python."""

import ctypes
import importlib.util
import logging
from dataclasses import dataclass
from functools import cache

import torch

logger = logging.getLogger(__name__)
NAME = "serve_app.engine.device.native._compiled"
NEEDS = ("avx2", "fma3")
INTERFACE = 1
"""Of the functions: see crew.h. Code that was compiled for another would read what is not there."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None where it was not compiled or this CPU cannot run it.

    Nor is it used, with a warning, where it was compiled from other sources than are here.
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
    """The compiled code, and how many threads may work on a call of it."""

    library: ctypes.CDLL
    num_threads: int


def native() -> Native | None:
    """The compiled code, if it can be had, for as many threads as the caller's operations have."""
    code = library()
    return None if code is None else Native(code, torch.get_num_threads())
