"""Measures what keys, limits and usage records cost an endpoint for each token."""

from collections.abc import Mapping, Sequence

from serve_app.bench.arms.arm import Ground
from serve_app.bench.http.http_cost import Asking, costs
from serve_app.bench.http.local_endpoint import Kept, published
from serve_app.bench.http.processor_time import ENGINE, INGRESS, TEXT
from serve_app.bench.requests.workload import Asked, Lengths, Workload
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.tenants.endpoint_tenants import tenants

STREAMS = 16
TOKENS = 64
PARTS = (ENGINE, TEXT, INGRESS)
TURNS = 2


def keeping_cost(
    ground: Ground,
    asked: Sequence[Asked],
    *,
    rounds: int = 2,
    turns: int = TURNS,
    on_progress: OnProgress = lambda *_: None,
) -> Measured:
    """Processor time of engine, text process and ingress for a token with keys, limits and usage
    records, divided by that without.

    An endpoint without and one with them are started in turns: what an engine's steps take differs
    from start to start by some percent, which is more than all of this.
    Raises: EngineError if one does not get ready, or a request is lost.
    """
    each = Lengths(TOKENS, TOKENS)
    asking = Asking(tuple(asked), Workload(each, each, skew=0.0, seed=0), rounds=rounds)

    def us_per_token(kept: Kept | None) -> Mapping[str, float]:
        (row,), _ = costs(ready, asking, (STREAMS,), on_progress, kept)
        us: Mapping[str, float] = row["us_per_token"]
        return us

    without, kept_ones = [], []
    with published(ground) as ready, tenants("tenant") as kept:
        for _ in range(turns):
            without.append(us_per_token(None))
            kept_ones.append(us_per_token(kept["tenant"]))
    return Measured(
        _of_all(kept_ones) / _of_all(without), {"us_without": without, "us_with": kept_ones}
    )


def _of_all(turns: Sequence[Mapping[str, float]]) -> float:
    return sum(us.get(part, 0.0) for us in turns for part in PARTS)
