"""Finds the compiled code. Its functions are called with addresses, so it knows no Python."""

import ctypes
import importlib.util
from functools import cache

import torch

NAME = "serve_app.engine.native._compiled"
NEEDS = ("avx2", "fma3")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None where it was not compiled or this CPU cannot run it."""
    capabilities = torch.cpu.get_capabilities()
    found = importlib.util.find_spec(NAME)
    if found is None or found.origin is None or not all(map(capabilities.get, NEEDS)):
        return None
    return ctypes.CDLL(found.origin)
