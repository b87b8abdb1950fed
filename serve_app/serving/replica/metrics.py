"""Prometheus numbers of one replica. Times are seconds; measures nothing by itself."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from serve_app.protocol.errors import ErrorCode
from serve_app.serving.replica.follow import FollowState
from serve_app.serving.replica.snapshot import Load

_LABELS = ("model_name", "tenant", "release")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """What is counted as requests pass, plus what is read from the engine when asked."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._first = self._histogram("time_to_first_token_seconds", "To the first token", _SECONDS)
        self._between = self._histogram(
            "inter_token_latency_seconds", "From token to token of one choice", _TOKEN_SECONDS
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "From submission to the first step of a choice", _SECONDS
        )
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "From the first step to the first token", _SECONDS
        )
        self._decode = self._histogram(
            "request_decode_time_seconds", "From the first token to the last of a choice", _SECONDS
        )
        self._whole = self._histogram(
            "e2e_request_latency_seconds", "From arrival to the end of a request", _SECONDS
        )
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of accepted requests")
        self._generated = self._counter("generation_tokens", "Generated tokens")
        self._success = Counter(
            "expertpool_request_success",
            "Choices that were finished",
            (*_LABELS, "finished_reason"),
            registry=self._registry,
        )
        self._refused = Counter(
            "expertpool_request_errors",
            "Requests that were refused or failed, by code",
            ("code",),
            registry=self._registry,
        )

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"expertpool_{name}", text, _LABELS, registry=self._registry, buckets=buckets
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"expertpool_{name}", text, _LABELS, registry=self._registry)

    def refused(self, code: ErrorCode) -> None:
        self._refused.labels(code).inc()

    def request(self, model: str, tenant: str, release: str) -> "RequestMetrics":
        return RequestMetrics(self, (model, tenant, release))

    def render(self, load: Load | None, follow: FollowState, serving: str | None) -> str:
        """The text that Prometheus reads."""
        now = CollectorRegistry()
        now.register(_Snapshot(load, follow, serving))
        return generate_latest(self._registry).decode() + generate_latest(now).decode()


class RequestMetrics:
    """The numbers of one request; all moments are on one clock, in seconds.

    What is counted with every token is looked up once: a lookup costs more than counting.
    """

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str]) -> None:
        self._metrics = metrics
        self._labels = labels
        self._between = metrics._between.labels(*labels)
        self._generated = metrics._generated.labels(*labels)
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}

    def accepted(self, prompt_tokens: int) -> None:
        self._metrics._prompt.labels(*self._labels).inc(prompt_tokens)

    def token(self, choice: int, begun: float, now: float, queued_s: float | None) -> None:
        """queued_s: with the first token, how long the choice waited for its first step."""
        if choice in self._last:
            self._between.observe(now - self._last[choice])
        else:
            self._first[choice] = now
            self._metrics._first.labels(*self._labels).observe(now - begun)
            if queued_s is not None:
                self._metrics._queue.labels(*self._labels).observe(queued_s)
                prefill = max(0.0, now - begun - queued_s)
                self._metrics._prefill.labels(*self._labels).observe(prefill)
        self._last[choice] = now
        self._generated.inc()

    def finished(self, choice: int, reason: str) -> None:
        if choice in self._first:
            decode = self._last[choice] - self._first[choice]
            self._metrics._decode.labels(*self._labels).observe(decode)
        self._metrics._success.labels(*self._labels, reason).inc()

    def ended(self, begun: float, now: float) -> None:
        self._metrics._whole.labels(*self._labels).observe(now - begun)


class _Snapshot:
    """The engine and the releases as they are now, in Prometheus' terms."""

    def __init__(self, load: Load | None, follow: FollowState, serving: str | None) -> None:
        self._load = load
        self._follow = follow
        self._serving = serving

    def collect(self) -> Iterator[Metric]:
        if self._serving is not None:
            info = GaugeMetricFamily(
                "expertpool_release_info", "The release that is served", labels=["release"]
            )
            info.add_metric([self._serving], 1)
            yield info
        follow = self._follow
        yield GaugeMetricFamily(
            "expertpool_release_staging_seconds",
            "How long taking up the last release took",
            value=follow.last_staging_s,
        )
        yield CounterMetricFamily(
            "expertpool_release_switches", "Releases taken up", value=follow.num_switches
        )
        yield CounterMetricFamily(
            "expertpool_release_failures",
            "Times a release could not be taken up",
            value=follow.num_failures,
        )
        if self._load is not None:
            yield from _of_load(self._load)


def _of_load(load: Load) -> Iterator[Metric]:
    yield _by_model("num_requests_running", "Sequences that run", load.running)
    yield _by_model("num_requests_waiting", "Sequences that wait", load.waiting)
    for name, value in sorted(load.gauges.items()):
        yield GaugeMetricFamily(f"expertpool_{name}", name.replace("_", " "), value=value)
    for name, value in sorted(load.totals.items()):
        short = name.removesuffix("_total")
        yield CounterMetricFamily(f"expertpool_{short}", short.replace("_", " "), value=value)


def _by_model(name: str, text: str, numbers: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(f"expertpool_{name}", text, labels=["model_name"])
    for model, number in sorted(numbers.items()):
        family.add_metric([model], number)
    return family
