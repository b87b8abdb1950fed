"""One replica: its state, steps, memory and backbones."""

from serve_app.monitoring.panels import Dashboard, Panel, Query, Variable
from serve_app.monitoring.queries import panel, rate, total
from serve_app.serving.metrics.metric_row import PREFIX

_REPLICA = Variable("replica", f"{PREFIX}ready", "replica", has_all=False)
_ONE = 'replica="$replica"'
_MEMORY = (
    ("pool_bytes", "experts"),
    ("backbone_bytes", "backbones"),
    ("kv_bytes", "keys and values"),
    ("state_bytes", "state of sequences"),
    ("attention_bytes", "attention"),
    ("captures_bytes", "captured steps"),
    ("host_bytes", "copies on the host"),
)


def _share(units: str, legend: str) -> Query:
    """How much of a kind is in use; nothing is shown where a family has none of it."""
    return Query(f"{total(f'{units}_used', where=_ONE)} / {total(units, where=_ONE)}", legend)


REPLICA = Dashboard(
    "expertpool-replica",
    "expertpool: one replica",
    (_REPLICA,),
    (
        (
            "State",
            (
                Panel(
                    "State",
                    "bool_yes_no",
                    tuple(
                        Query(total(name, where=_ONE), name)
                        for name in ("ready", "channel_readable", "wanted_is_serving", "staging")
                    ),
                    is_now=True,
                ),
                panel(
                    "Release",
                    "short",
                    f"count by (release, side) ({PREFIX}release_info{{{_ONE}}})",
                    "{{release}} ({{side}})",
                    is_now=True,
                ),
                Panel(
                    "Troubles",
                    "short",
                    tuple(
                        Query(total(name, where=_ONE), name)
                        for name in ("broken_invariants", "text_restarts_total")
                    ),
                    is_now=True,
                ),
            ),
        ),
        (
            "Steps",
            (
                panel("Steps", "ops", rate("engine_steps_total", where=_ONE), "steps"),
                Panel(
                    "A step takes",
                    "s",
                    (
                        Query(
                            f"{rate('engine_step_seconds_total', where=_ONE)}"
                            f" / {rate('engine_steps_total', where=_ONE)}",
                            "step",
                        ),
                        Query(
                            f"{rate('engine_forward_seconds_total', where=_ONE)}"
                            f" / {rate('engine_steps_total', where=_ONE)}",
                            "forward pass",
                        ),
                    ),
                ),
                panel("Preemptions", "ops", rate("num_preemptions_total", where=_ONE), "sequences"),
            ),
        ),
        (
            "Memory",
            (
                Panel(
                    "Bytes",
                    "bytes",
                    tuple(Query(total(name, where=_ONE), legend) for name, legend in _MEMORY),
                    stacked=True,
                ),
                Panel(
                    "In use",
                    "percentunit",
                    (
                        Query(total("kv_cache_usage_perc", where=_ONE), "KV blocks"),
                        _share("input_blocks", "blocks of inputs of encoders"),
                        _share("state_rows", "rows of state"),
                    ),
                ),
                panel(
                    "Prompt tokens found computed",
                    "percentunit",
                    f"{rate('prefix_hit_tokens_total', where=_ONE)}"
                    f" / {rate('prefix_tokens_total', where=_ONE)}",
                    "tokens",
                ),
            ),
        ),
        (
            "Backbones",
            (
                Panel(
                    "Requests",
                    "reqps",
                    (
                        Query(rate("backbone_hits_total", where=_ONE), "on the device"),
                        Query(rate("backbone_misses_total", where=_ONE), "not on the device"),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Places",
                    "ops",
                    (
                        Query(rate("backbone_loads_total", where=_ONE), "loads"),
                        Query(rate("backbone_evictions_total", where=_ONE), "evictions"),
                        Query(rate("backbone_load_failures_total", where=_ONE), "failures"),
                    ),
                ),
                Panel(
                    "Models",
                    "short",
                    (
                        Query(total("resident_models", where=_ONE), "on the device"),
                        Query(total("loaded_releases", where=_ONE), "releases loaded"),
                    ),
                ),
            ),
        ),
    ),
)
