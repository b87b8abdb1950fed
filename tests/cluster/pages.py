"""Reads pages of metrics on nodes' ports. Compares nothing."""

import re
from collections.abc import Mapping, Sequence

import httpx

ENGINE_PORT = 9464


def metric(address: str, name: str) -> float:
    """The sum of one of our series over its labels, by an engine's own port."""
    return sum(_series(f"{address}:{ENGINE_PORT}", f"expertpool_{name}").values())


def ray_series(targets: Sequence[str], name: str) -> Mapping[str, float]:
    """By Ray's own ports, each by its labels."""
    pages = [_series(target, f"ray_expertpool_{name}") for target in targets]
    return {labels: value for page in pages for labels, value in page.items()}


def _series(target: str, name: str) -> Mapping[str, float]:
    page = httpx.get(f"http://{target}/metrics", timeout=10).text
    lines = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", page, re.M)
    return {labels: float(value) for labels, value in lines}
