"""All replicas together: do they answer, how much, and with what."""

from serve_app.monitoring.panels import Dashboard, Panel, Query
from serve_app.monitoring.queries import HTTP, panel, quantiles, rate, total
from serve_app.serving.metrics.metric_row import PREFIX

FLEET = Dashboard(
    "expertpool-fleet",
    "expertpool: fleet",
    (),
    (
        (
            "Now",
            (
                panel("Replicas that answer", "short", total("ready"), is_now=True),
                panel(
                    "Channel readable by all",
                    "bool_yes_no",
                    f"min({PREFIX}channel_readable)",
                    is_now=True,
                ),
                panel(
                    "All serve what the channel says",
                    "bool_yes_no",
                    f"min({PREFIX}wanted_is_serving)",
                    is_now=True,
                ),
                panel("Replicas that read a release", "short", total("staging"), is_now=True),
            ),
        ),
        (
            "Requests",
            (
                panel("Generated tokens", "cps", rate("generation_tokens_total"), "tokens"),
                panel(
                    "Choices that ended, by reason",
                    "reqps",
                    rate("request_success_total", "finished_reason"),
                    "{{finished_reason}}",
                    stacked=True,
                ),
                panel(
                    "Errors, by code",
                    "reqps",
                    rate("request_errors_total", "code"),
                    "{{code}}",
                    stacked=True,
                ),
                panel(
                    "Answers, by status",
                    "reqps",
                    f"sum by (status) (rate({{{HTTP}}}[$__rate_interval]))",
                    "{{status}}",
                    stacked=True,
                ),
                quantiles("Time to the first token", "time_to_first_token_seconds"),
                quantiles("From token to token", "inter_token_latency_seconds"),
                quantiles("Whole requests", "e2e_request_latency_seconds"),
            ),
        ),
        (
            "Load",
            (
                Panel(
                    "Sequences",
                    "short",
                    (
                        Query(total("num_requests_running"), "running"),
                        Query(total("num_requests_waiting"), "waiting"),
                    ),
                ),
                panel(
                    "Open choices, of the most",
                    "percentunit",
                    f"{PREFIX}open_choices / {PREFIX}max_open_choices",
                    "{{replica}}",
                ),
                panel(
                    "KV blocks in use",
                    "percentunit",
                    f"{PREFIX}kv_cache_usage_perc",
                    "{{replica}}",
                ),
            ),
        ),
        (
            "Releases",
            (
                panel(
                    "Replicas by release",
                    "short",
                    f"count by (release, side) ({PREFIX}release_info)",
                    "{{release}} ({{side}})",
                ),
                panel(
                    "Releases that could not be taken up, in an hour",
                    "short",
                    f"sum by (replica) (increase({PREFIX}release_failures_total[1h]))",
                    "{{replica}}",
                ),
                panel(
                    "How long the last release took",
                    "s",
                    f"{PREFIX}release_staging_seconds",
                    "{{replica}}",
                ),
            ),
        ),
    ),
)
