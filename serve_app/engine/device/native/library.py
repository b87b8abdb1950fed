"""Finds the compiled code. Its functions take addresses, so they know nothing of Python."""

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)
PATH = Path(__file__).with_name("_compiled.abi3.so")
"""One file serves every Python (pyproject.toml). Code from before it was named so is not loaded."""
NEEDS = ("avx2", "fma3")
INTERFACE = 6
"""Version of the functions, see crew.h. Code of another version would read what is not there."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None if this CPU cannot run it.

    Also None, with a warning once a process, if nothing was compiled, or if it was compiled from
    other sources than those that are here.
    """
    capabilities = torch.cpu.get_capabilities()
    if not all(map(capabilities.get, NEEDS)):
        return None
    if not PATH.exists():
        logger.warning(
            "The compiled code for this CPU is missing, so torch computes instead, more slowly. "
            "Install expertpool from its wheel, or where there is a C compiler."
        )
        return None
    code = ctypes.CDLL(str(PATH))
    if not hasattr(code, "expertpool_interface") or code.expertpool_interface() != INTERFACE:
        logger.warning("%s is of another version: install the package again", PATH)
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
