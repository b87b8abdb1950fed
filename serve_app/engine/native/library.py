"""Finds the compiled code. Its functions are called with addresses, so it knows no Python."""

import ctypes
import importlib.util
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Native:
    """The compiled code, and how many threads may work on a call of it."""

    library: ctypes.CDLL
    num_threads: int


def native() -> Native | None:
    """The compiled code, if it can be had, for as many threads as the caller's operations have."""
    code = library()
    return None if code is None else Native(code, torch.get_num_threads())
