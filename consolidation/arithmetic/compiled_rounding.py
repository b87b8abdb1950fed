"""Finds and calls the compiled form of rounding with feedback. Gives what `feedback.py` gives.

For x86 CPUs with AVX2; compiled when the package is installed, if there is a compiler.
"""

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch

from representation.formats import SCALE_DTYPE

logger = logging.getLogger(__name__)
PATH = Path(__file__).with_name("_rounding.abi3.so")
"""One file serves every Python (pyproject.toml)."""
INTERFACE = 1
"""Version of the function, see c/rounding.c. Code of another would read what is not there."""

_Number, _Pointer = ctypes.c_int64, ctypes.c_void_p


class _Call(ctypes.Structure):
    """`Call` of `c/rounding.c`, field by field."""

    _fields_ = (
        ("matrix", _Pointer),
        ("roots", _Pointer),
        ("spreads", _Pointer),
        ("shares", _Pointer),
        ("codes", _Pointer),
        ("scales", _Pointer),
        ("values", _Pointer),
        ("num_rows", _Number),
        ("num_columns", _Number),
        ("block", _Number),
        ("group", _Number),
        ("num_shares", _Number),
        ("half", ctypes.c_double),
        ("num_threads", _Number),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None if this CPU cannot run it.

    Also None, with a warning once a process, if nothing was compiled, or if it was compiled from
    other sources than those that are here.
    """
    if not torch.cpu.get_capabilities().get("avx2"):
        return None
    if not PATH.exists():
        logger.warning(
            "The compiled code for rounding is missing, so torch rounds instead, more slowly. "
            "Install expertpool from its wheel, or where there is a C compiler."
        )
        return None
    code = ctypes.CDLL(str(PATH))
    version = getattr(code, "expertpool_rounding_interface", None)
    if version is None or version() != INTERFACE:
        logger.warning("%s is of another version: install the package again", PATH)
        return None
    code.expertpool_round.restype, code.expertpool_round.argtypes = _Number, [_Pointer]
    return code


def round_compiled(
    code: ctypes.CDLL,
    matrix: torch.Tensor,
    roots: torch.Tensor,
    spreads: torch.Tensor,
    shares: torch.Tensor,
    half: float,
    group: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round a matrix, (O, I) float32 on the CPU, on as many threads as torch's operations have.

    roots, spreads, shares, half, group: as for `round_blocks`
    ->  codes (O, I) uint8, scales (O, ceil(I / group)), values (O, I)
    """
    matrix, roots, spreads = matrix.contiguous(), roots.contiguous(), spreads.contiguous()
    codes = torch.empty_like(matrix, dtype=torch.uint8)
    values = torch.empty_like(matrix)
    scales = matrix.new_empty((matrix.shape[0], -(-matrix.shape[1] // group)), dtype=SCALE_DTYPE)
    call = _Call(
        matrix.data_ptr(),
        roots.data_ptr(),
        spreads.data_ptr(),
        shares.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        values.data_ptr(),
        *matrix.shape,
        roots.shape[1],
        group,
        len(shares),
        half,
        torch.get_num_threads(),
    )
    failed = code.expertpool_round(ctypes.addressof(call))
    assert not failed, f"blocks of {roots.shape[1]} columns are too wide for the compiled code"
    return codes, scales, values
