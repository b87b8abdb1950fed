"""Measures what keys, limits and usage records cost an endpoint for each token."""

from collections.abc import Sequence

from serve_app.bench.arms.arm import Ground
from serve_app.bench.http.http_cost import Asking, costs
from serve_app.bench.http.processor_time import ENGINE, INGRESS, TEXT
from serve_app.bench.requests.workload import Asked, Lengths, Workload
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.tenants.endpoint_tenants import tenants

STREAMS = 16
TOKENS = 64
PARTS = (ENGINE, TEXT, INGRESS)


def keeping_cost(
    ground: Ground,
    asked: Sequence[Asked],
    *,
    rounds: int = 3,
    on_progress: OnProgress = lambda *_: None,
) -> Measured:
    """Processor time of engine, text process and ingress for a token with keys, limits and usage
    records, divided by that without: of two endpoints, one after the other.

    Raises: EngineError if one does not get ready, or a request is lost.
    """
    each = Lengths(TOKENS, TOKENS)
    asking = Asking(tuple(asked), Workload(each, each, skew=0.0, seed=0), rounds=rounds)
    (without,), _ = costs(ground, asking, (STREAMS,), on_progress)
    with tenants("tenant") as kept:
        (kept_row,), _ = costs(ground, asking, (STREAMS,), on_progress, kept["tenant"])
    us = [row["us_per_token"] for row in (without, kept_row)]
    before, after = (sum(one.get(part, 0.0) for part in PARTS) for one in us)
    return Measured(after / before, {"us_without": us[0], "us_with": us[1]})
