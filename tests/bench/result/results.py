"""Results as a benchmark would give them."""

from typing import Any

from serve_app.bench.result.environment import Environment
from serve_app.bench.result.result import Result

SOMEWHERE = Environment(
    device="cpu",
    device_bytes=8 << 30,
    cuda=None,
    cpu="A Processor",
    cores=2,
    cpu_features=("avx2",),
    threads=2,
    versions={"python": "3.11.0"},
    at="2026-01-01T00:00:00+00:00",
)


def result(kind: str, rows: list[dict[str, Any]], **facts: Any) -> Result:
    """A result of a kind from somewhere."""
    return Result(kind, SOMEWHERE, {"shape": "tiny", "models": [1, 2]}, rows, facts)
