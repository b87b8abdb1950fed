"""Every metric of a replica: its name, help, kind, labels and where its value comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from serve_app.engine.backlog import Backlog
from serve_app.engine.stats import Stats
from serve_app.scheduling.sequence import ModelKey
from serve_app.serving.replica.snapshot import Snapshot

Values = Mapping[tuple[str, ...], float]
"""Values by the labels that they have."""
Getter = Callable[[Snapshot], Values]


@dataclass(frozen=True, slots=True)
class MetricRow:
    """name: without the prefix; a counter's ends in `_total`.

    get: reads the values when they are asked for; None: they are counted as requests pass.
    buckets: of a histogram, their upper ends.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...] = ()
    get: Getter | None = None
    buckets: tuple[float, ...] = ()


PREFIX = "expertpool_"
_REQUEST = ("model_name", "tenant", "side", "service_class")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)


def _histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> MetricRow:
    """A distribution over requests. In seconds."""
    return MetricRow(name, text, "histogram", _REQUEST, buckets=buckets)


def _of_engine(get: Callable[[Stats], float]) -> Getter:
    return lambda look: {} if look.engine is None else {(): get(look.engine)}


def _gauge(name: str, text: str, get: Callable[[Stats], float]) -> MetricRow:
    return MetricRow(name, text, "gauge", get=_of_engine(get))


def _total(name: str, text: str, get: Callable[[Stats], float]) -> MetricRow:
    return MetricRow(name, text, "counter", get=_of_engine(get))


def _by_model(get: Callable[[Stats], Mapping[ModelKey, int]]) -> Getter:
    """Sequences by model, of all releases together. A model that is served and idle has 0."""

    def values(look: Snapshot) -> Values:
        if look.engine is None:
            return {}
        found: dict[tuple[str, ...], float] = {(name,): 0 for name in look.models}
        for (_, name), number in get(look.engine).items():
            found[(name,)] = found.get((name,), 0) + number
        return found

    return values


def _by_tenant(get: Callable[[Backlog], int]) -> Getter:
    return lambda look: {(label,): get(backlog) for label, backlog in look.backlogs.items()}


def _sides(look: Snapshot) -> Values:
    """The releases that answer, by side."""
    both = {"stable": look.serving, "canary": look.canary}
    return {(release, side): 1 for side, release in both.items() if release is not None}


REQUESTS = (
    _histogram("time_to_first_token_seconds", "To the first token"),
    _histogram("inter_token_latency_seconds", "From token to token of one choice", _TOKEN_SECONDS),
    _histogram("request_queue_time_seconds", "From submission to the first step of a choice"),
    _histogram("request_prefill_time_seconds", "From the first step to the first token"),
    _histogram("request_decode_time_seconds", "From the first token to the last of a choice"),
    _histogram("e2e_request_latency_seconds", "From arrival to the end of a request"),
    MetricRow("prompt_tokens_total", "Prompt tokens of accepted requests", "counter", _REQUEST),
    MetricRow("generation_tokens_total", "Generated tokens", "counter", _REQUEST),
    MetricRow(
        "request_success_total",
        "Choices that were finished",
        "counter",
        (*_REQUEST, "finished_reason"),
    ),
    MetricRow(
        "request_errors_total",
        "Requests that were refused or failed, by code",
        "counter",
        ("code", "tenant", "side"),
    ),
)
"""Counted as requests pass."""

RELEASES = (
    MetricRow(
        "release_info",
        "The releases that are served: that of the channel (stable), and a canary",
        "gauge",
        ("release", "side"),
        _sides,
    ),
    MetricRow(
        "canary_share",
        "The share of requests that are the canary's, from 0 to 1; tenants are not counted",
        "gauge",
        get=lambda look: {(): look.canary_percent / 100},
    ),
    MetricRow(
        "release_staging_seconds",
        "How long taking up the last release took",
        "gauge",
        get=lambda look: {(): look.follow.last_staging_s},
    ),
    MetricRow(
        "release_switches_total",
        "Releases taken up",
        "counter",
        get=lambda look: {(): look.follow.num_switches},
    ),
    MetricRow(
        "release_failures_total",
        "Times a release could not be taken up",
        "counter",
        get=lambda look: {(): look.follow.num_failures + look.canary_failures},
    ),
    MetricRow(
        "num_requests_running",
        "Sequences that run",
        "gauge",
        ("model_name",),
        _by_model(lambda e: e.num_running_by_model),
    ),
    MetricRow(
        "num_requests_waiting",
        "Sequences that wait",
        "gauge",
        ("model_name",),
        _by_model(lambda e: e.num_waiting_by_model),
    ),
)
"""Of releases and their models."""

TENANTS = (
    MetricRow(
        "tenant_requests_running",
        "Sequences of a tenant that run",
        "gauge",
        ("tenant",),
        _by_tenant(lambda backlog: backlog.num_running),
    ),
    MetricRow(
        "tenant_requests_waiting",
        "Sequences of a tenant that wait",
        "gauge",
        ("tenant",),
        _by_tenant(lambda backlog: backlog.num_waiting),
    ),
    MetricRow(
        "tenant_tokens_waiting",
        "Tokens of a tenant's sequences that wait",
        "gauge",
        ("tenant",),
        _by_tenant(lambda backlog: backlog.waiting_tokens),
    ),
)
"""Of the queue, by tenant."""

TEXT = (
    MetricRow(
        "text_restarts_total",
        "Times the text process was started again",
        "counter",
        get=lambda look: {(): look.text_restarts},
    ),
)
"""Of the text process."""

ENGINE = (
    _gauge(
        "kv_cache_usage_perc",
        "KV blocks in use, as a share of all",
        lambda e: e.kv_blocks_used / max(1, e.kv_blocks),
    ),
    _gauge("kv_blocks_used", "KV blocks in use", lambda e: e.kv_blocks_used),
    _gauge("pool_bytes", "Bytes of the pool of experts", lambda e: e.pool_bytes),
    _gauge("backbone_bytes", "Bytes of the places for backbones", lambda e: e.backbones_bytes),
    _gauge("kv_bytes", "Bytes of the KV store", lambda e: e.kv_bytes),
    _gauge("attention_bytes", "Bytes that attention kernels keep", lambda e: e.attention_bytes),
    _gauge("captures_bytes", "Bytes that captured steps keep", lambda e: e.captures_bytes),
    _gauge("host_bytes", "Bytes of backbones held in host memory", lambda e: e.host_bytes),
    _gauge(
        "resident_models",
        "Models whose backbone is on the device",
        lambda e: len(e.resident),
    ),
    _gauge("loaded_releases", "Releases that are loaded", lambda e: len(e.releases)),
    _gauge("unique_experts", "Slots that are held", lambda e: e.unique_experts),
    _gauge("logical_experts", "Experts that models have together", lambda e: e.logical_experts),
    _gauge(
        "broken_invariants",
        "1 once the engine's counts did not add up; see /health",
        lambda e: e.broken is not None,
    ),
    _total("num_preemptions_total", "Sequences preempted", lambda e: e.num_preemptions),
    _total(
        "backbone_hits_total",
        "Requests whose backbone was on the device when they came",
        lambda e: e.backbone_hits,
    ),
    _total(
        "backbone_misses_total",
        "Requests whose backbone was not on the device when they came",
        lambda e: e.backbone_misses,
    ),
    _total(
        "backbone_evictions_total",
        "Times a place went from one backbone to another",
        lambda e: e.backbone_evictions,
    ),
    _total("backbone_loads_total", "Backbones loaded", lambda e: e.counters.backbone_loads),
    _total(
        "backbone_load_failures_total",
        "Backbones that could not be loaded",
        lambda e: e.counters.backbone_load_failures,
    ),
    _total(
        "backbone_load_seconds_total",
        "Seconds in loads of backbones",
        lambda e: e.counters.backbone_load_seconds,
    ),
    _total(
        "backbone_load_bytes_total",
        "Bytes copied by loads of backbones; what is on the device already is not",
        lambda e: e.counters.backbone_load_bytes,
    ),
    _total("engine_steps_total", "Steps", lambda e: e.counters.num_steps),
    _total("engine_step_seconds_total", "Seconds in steps", lambda e: e.counters.step_seconds),
    _total(
        "engine_forward_seconds_total",
        "Seconds of the steps that went into the forward",
        lambda e: e.counters.forward_seconds,
    ),
    _total(
        "staging_seconds_total",
        "Seconds in loads of experts",
        lambda e: e.counters.staging_seconds,
    ),
    _total(
        "prefix_tokens_total",
        "Prompt tokens for which computed ones were looked for",
        lambda e: e.counters.prefix_tokens,
    ),
    _total(
        "prefix_hit_tokens_total",
        "Prompt tokens that were found computed",
        lambda e: e.counters.prefix_hit_tokens,
    ),
)
"""The engine's own figures."""

METRICS = (*REQUESTS, *RELEASES, *TENANTS, *TEXT, *ENGINE)


def engine_figures(look: Snapshot) -> dict[str, float]:
    """The engine's own figures by name, as `/health` shows them; none before there is one."""
    return {m.name: value for m in ENGINE if m.get for value in m.get(look).values()}
