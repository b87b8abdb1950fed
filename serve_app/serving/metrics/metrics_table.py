"""Every metric: its name, help, kind, labels and where its value comes from. Counts nothing."""

from serve_app.serving.metrics.metric_row import (
    MetricRow,
    Values,
    by_model,
    by_tenant,
    engine_gauge,
    engine_total,
    gauge,
    total,
)
from serve_app.serving.metrics.snapshot import Snapshot

_REQUEST = ("model_name", "tenant", "side", "service_class")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)


def _histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> MetricRow:
    """A distribution over requests. In seconds."""
    return MetricRow(name, text, "histogram", _REQUEST, buckets=buckets)


def _sides(look: Snapshot) -> Values:
    """The releases that answer, by side."""
    both = {"stable": look.releases.serving, "canary": look.releases.canary}
    return {(release, side): 1 for side, release in both.items() if release is not None}


BETWEEN_TOKENS = _histogram(
    "inter_token_latency_seconds", "From token to token of one choice", _TOKEN_SECONDS
)
REQUESTS = (
    _histogram("time_to_first_token_seconds", "To the first token"),
    BETWEEN_TOKENS,
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
    gauge("ready", "1 while new requests are answered", lambda look: look.is_ready),
    gauge(
        "channel_readable",
        "1 while the channel can be read; a pinned release needs none",
        lambda look: look.releases.channel_trouble is None,
    ),
    gauge(
        "wanted_is_serving",
        "1 while the release that the channel points at answers new requests",
        lambda look: (
            look.releases.wanted is not None and look.releases.wanted == look.releases.serving
        ),
    ),
    gauge(
        "staging",
        "1 while a next release is being read and verified",
        lambda look: look.releases.staging is not None,
    ),
    gauge(
        "waiting_for_turn",
        "1 while a next release is read only once another replica has read it",
        lambda look: look.releases.waits_for_turn,
    ),
    gauge(
        "canary_share",
        "The share of requests that are the canary's, from 0 to 1; tenants are not counted",
        lambda look: look.releases.canary_percent / 100,
    ),
    gauge(
        "release_staging_seconds",
        "How long taking up the last release took",
        lambda look: look.releases.last_staging_s,
    ),
    total("release_switches_total", "Releases taken up", lambda look: look.releases.num_switches),
    total(
        "release_failures_total",
        "Times a release could not be taken up",
        lambda look: look.releases.num_failures,
    ),
    MetricRow(
        "num_requests_running",
        "Sequences that run",
        "gauge",
        ("model_name",),
        by_model(lambda e: e.num_running_by_model),
    ),
    MetricRow(
        "num_requests_waiting",
        "Sequences that wait",
        "gauge",
        ("model_name",),
        by_model(lambda e: e.num_waiting_by_model),
    ),
)
"""Of releases and their models."""

QUEUE = (
    gauge("open_choices", "Choices that run and wait", lambda look: look.open_choices),
    gauge(
        "max_open_choices",
        "The most choices that may run and wait; a request beyond gets 429",
        lambda look: look.max_open_choices,
    ),
    MetricRow(
        "tenant_requests_running",
        "Sequences of a tenant that run",
        "gauge",
        ("tenant",),
        by_tenant(lambda backlog: backlog.num_running),
    ),
    MetricRow(
        "tenant_requests_waiting",
        "Sequences of a tenant that wait",
        "gauge",
        ("tenant",),
        by_tenant(lambda backlog: backlog.num_waiting),
    ),
    MetricRow(
        "tenant_tokens_waiting",
        "Tokens of a tenant's sequences that wait",
        "gauge",
        ("tenant",),
        by_tenant(lambda backlog: backlog.waiting_tokens),
    ),
)
"""Of the queue, in all and by tenant."""

TEXT = (
    total(
        "text_restarts_total",
        "Times the text process was started again",
        lambda look: look.text_restarts,
    ),
)
"""Of the text process."""

ENGINE = (
    engine_gauge(
        "kv_cache_usage_perc",
        "KV blocks in use, as a share of all",
        lambda e: e.kv_blocks_used / max(1, e.kv_blocks),
    ),
    engine_gauge("kv_blocks_used", "KV blocks in use", lambda e: e.kv_blocks_used),
    engine_gauge("pool_bytes", "Bytes of the pool of experts", lambda e: e.pool_bytes),
    engine_gauge(
        "backbone_bytes", "Bytes of the places for backbones", lambda e: e.backbones_bytes
    ),
    engine_gauge("kv_bytes", "Bytes of the KV store", lambda e: e.kv_bytes),
    engine_gauge("input_blocks", "Blocks for the inputs of encoders", lambda e: e.input_blocks),
    engine_gauge(
        "input_blocks_used",
        "Blocks for the inputs of encoders in use",
        lambda e: e.input_blocks_used,
    ),
    engine_gauge("state_rows", "Sequences that state has room for", lambda e: e.state_rows),
    engine_gauge("state_rows_used", "Sequences whose state is held", lambda e: e.state_rows_used),
    engine_gauge("state_bytes", "Bytes of the state of sequences", lambda e: e.state_bytes),
    engine_gauge(
        "attention_bytes", "Bytes that attention kernels keep", lambda e: e.attention_bytes
    ),
    engine_gauge("captures_bytes", "Bytes that captured steps keep", lambda e: e.captures_bytes),
    engine_gauge("host_bytes", "Bytes of backbones held in host memory", lambda e: e.host_bytes),
    engine_gauge(
        "resident_models",
        "Models whose backbone is on the device",
        lambda e: len(e.resident),
    ),
    engine_gauge("loaded_releases", "Releases that are loaded", lambda e: len(e.releases)),
    engine_gauge("unique_experts", "Slots that are held", lambda e: e.unique_experts),
    engine_gauge(
        "logical_experts", "Experts that models have together", lambda e: e.logical_experts
    ),
    engine_gauge(
        "broken_invariants",
        "1 once the engine's counts did not add up; see /health",
        lambda e: e.broken is not None,
    ),
    engine_total("num_preemptions_total", "Sequences preempted", lambda e: e.num_preemptions),
    engine_total(
        "backbone_hits_total",
        "Requests whose backbone was on the device when they came",
        lambda e: e.backbone_hits,
    ),
    engine_total(
        "backbone_misses_total",
        "Requests whose backbone was not on the device when they came",
        lambda e: e.backbone_misses,
    ),
    engine_total(
        "backbone_evictions_total",
        "Times a place went from one backbone to another",
        lambda e: e.backbone_evictions,
    ),
    engine_total("backbone_loads_total", "Backbones loaded", lambda e: e.counters.backbone_loads),
    engine_total(
        "backbone_load_failures_total",
        "Backbones that could not be loaded",
        lambda e: e.counters.backbone_load_failures,
    ),
    engine_total(
        "backbone_load_seconds_total",
        "Seconds in loads of backbones",
        lambda e: e.counters.backbone_load_seconds,
    ),
    engine_total(
        "backbone_load_bytes_total",
        "Bytes copied by loads of backbones; what is on the device already is not",
        lambda e: e.counters.backbone_load_bytes,
    ),
    engine_total("engine_steps_total", "Steps", lambda e: e.counters.num_steps),
    engine_total(
        "engine_step_seconds_total", "Seconds in steps", lambda e: e.counters.step_seconds
    ),
    engine_total(
        "engine_forward_seconds_total",
        "Seconds of the steps that went into the forward",
        lambda e: e.counters.forward_seconds,
    ),
    engine_total(
        "staging_seconds_total",
        "Seconds in loads of experts",
        lambda e: e.counters.staging_seconds,
    ),
    engine_total(
        "prefix_tokens_total",
        "Prompt tokens for which computed ones were looked for",
        lambda e: e.counters.prefix_tokens,
    ),
    engine_total(
        "prefix_hit_tokens_total",
        "Prompt tokens that were found computed",
        lambda e: e.counters.prefix_hit_tokens,
    ),
)
"""The engine's own figures."""

METRICS = (*REQUESTS, *RELEASES, *QUEUE, *TEXT, *ENGINE)
"""Of a replica. Each series has the label `replica` too."""

HTTP_REQUESTS = MetricRow(
    "http_requests_total",
    "Requests that were answered, by route and class of status; 4xx if the client had left",
    "counter",
    ("ingress", "route", "status"),
)
INGRESS = (
    MetricRow(
        "keys_broken", "1 while the last change of the keys file cannot be taken up", "gauge"
    ),
    MetricRow(
        "usage_records_lost_total",
        "Records of usage that were dropped, as they could not be written for too long",
        "counter",
    ),
    HTTP_REQUESTS,
)
"""Of an ingress: on its own `/metrics` alone."""


def engine_figures(look: Snapshot) -> dict[str, float]:
    """The engine's own figures by name, as `/health` shows them; none before there is one."""
    return {m.name: value for m in ENGINE if m.get for value in m.get(look).values()}
