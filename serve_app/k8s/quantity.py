"""Quantities of Kubernetes (`1280Mi`, `500m`) and its times (`610s`) as numbers, and back."""

import re

_UNITS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_DURATION = re.compile(r"(\d+)(h|ms|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
MIB = 2**20


def number(quantity: object) -> float:
    """`1280Mi` in bytes, `500m` as 0.5. Raises ValueError for what is no quantity."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity: give a number, or 500m, 8Gi, …")
    return float(match[1]) * _UNITS[match[2] or ""]


def memory(num_bytes: int) -> str:
    """In whole MiB, or GiB where that is exact, rounded up: `1280Mi`."""
    mebibytes = -(-num_bytes // MIB)
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"


def duration_s(text: object) -> float:
    """`1h30m` in seconds. Raises ValueError for what is no duration of the Gateway API."""
    parts = _DURATION.findall(str(text))
    if not parts or "".join(size + unit for size, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration: give 610s, 1h30m, …")
    return sum(int(size) * _SECONDS[unit] for size, unit in parts)
