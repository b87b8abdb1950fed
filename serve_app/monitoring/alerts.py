"""The alerts: what is wrong, for how long before somebody is told, and where it says what to do."""

from dataclasses import dataclass
from typing import Any, Literal

from serve_app.monitoring.queries import HTTP
from serve_app.serving.metrics.metric_row import PREFIX

_FAULTS = "internal_error|loading|engine_unavailable|deadline_exceeded"
"""Codes of errors that are not the client's."""
RUNBOOK = "docs/operations.md"


@dataclass(frozen=True, slots=True)
class Alert:
    """expr: `{over}` stands for the time that rates are taken over, `over_s`.

    for_s: how long it must hold.   summary: one sentence, with labels as Prometheus fills them in.
    """

    name: str
    severity: Literal["critical", "warning"]
    expr: str
    for_s: float
    summary: str
    over_s: float = 300.0

    @property
    def anchor(self) -> str:
        """Of its heading in the runbook."""
        return self.name.lower()

    def rule(self, pace: float = 1.0) -> dict[str, Any]:
        """For Prometheus.   pace: multiplies all times; a test has less patience."""
        return {
            "alert": self.name,
            "expr": self.expr.replace("{over}", _span(self.over_s * pace)),
            "for": _span(self.for_s * pace),
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "runbook": f"{RUNBOOK}#{self.anchor}",
            },
        }


_ERRORS = f'sum(rate({PREFIX}request_errors_total{{code=~"{_FAULTS}"}}[{{over}}]))'
_ANSWERED = f"sum(rate({PREFIX}request_success_total[{{over}}]))"

_PROBES = "/health|/ready|/metrics"


def _answers(status: str) -> str:
    return f'sum(rate({{{HTTP},{status}route!~"{_PROBES}"}}[{{over}}]))'


ALERTS = (
    Alert(
        "ExpertpoolNothingReady",
        "critical",
        f"absent({PREFIX}ready) or sum({PREFIX}ready) == 0",
        120,
        "No replica answers requests.",
    ),
    Alert(
        "ExpertpoolReplicaNotReady",
        "warning",
        f"{PREFIX}ready == 0",
        600,
        "Replica {{ $labels.replica }} does not answer requests.",
    ),
    Alert(
        "ExpertpoolChannelUnreadable",
        "warning",
        f"{PREFIX}channel_readable == 0",
        300,
        "Replica {{ $labels.replica }} cannot read its channel, and would not see a new release.",
    ),
    Alert(
        "ExpertpoolErrorRate",
        "critical",
        f"({_ERRORS} / ({_ERRORS} + ({_ANSWERED} or vector(0)))) > 0.02",
        300,
        "{{ $value | humanizePercentage }} of the requests fail by a fault of the endpoint.",
    ),
    Alert(
        "ExpertpoolServerErrors",
        "critical",
        "{} / {} > 0.02".format(_answers('status="5xx",'), _answers("")),
        300,
        "{{ $value | humanizePercentage }} of the answers have a status of 500 or more.",
    ),
    Alert(
        "ExpertpoolQueueFull",
        "warning",
        f"{PREFIX}open_choices / {PREFIX}max_open_choices > 0.8",
        300,
        "Replica {{ $labels.replica }} has nearly as many open choices as it takes; soon it refuses"
        " requests with 429.",
    ),
    Alert(
        "ExpertpoolStagingStuck",
        "warning",
        f"{PREFIX}staging == 1",
        1800,
        "Replica {{ $labels.replica }} has been reading a release for half an hour.",
    ),
    Alert(
        "ExpertpoolReplicaOutOfStep",
        "warning",
        f"{PREFIX}wanted_is_serving == 0 and on (replica) {PREFIX}ready == 1"
        f" unless on (replica) ({PREFIX}staging == 1 or {PREFIX}waiting_for_turn == 1)",
        600,
        "Replica {{ $labels.replica }} answers with another release than the channel points at.",
    ),
    Alert(
        "ExpertpoolCountsBroken",
        "warning",
        f"{PREFIX}broken_invariants == 1",
        60,
        "The counts of replica {{ $labels.replica }} do not add up: restart it soon.",
    ),
)


def rule_groups(pace: float = 1.0) -> dict[str, Any]:
    """A file of rules for Prometheus."""
    return {"groups": [{"name": "expertpool", "rules": [alert.rule(pace) for alert in ALERTS]}]}


def prometheus_rule() -> dict[str, Any]:
    """The same for Prometheus's operator on Kubernetes."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "expertpool", "labels": {"app.kubernetes.io/name": "expertpool"}},
        "spec": rule_groups(),
    }


def _span(seconds: float) -> str:
    """As Prometheus writes a time."""
    return f"{round(seconds * 1000)}ms" if seconds % 1 else f"{round(seconds)}s"
