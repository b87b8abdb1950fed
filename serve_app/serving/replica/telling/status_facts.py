"""What a replica tells of its releases: models, aliases, the canary. Values in, plain dicts out."""

from collections.abc import Sequence
from typing import Any

from consolidation.release import Aliases, Canary
from serve_app.engine.stats import Stats
from serve_app.protocol.messages import ModelCard, Models, Status
from serve_app.serving.metrics.metrics_table import engine_figures
from serve_app.serving.metrics.snapshot import Snapshot
from serve_app.serving.replica.follow import FollowState
from serve_app.serving.replica.follow_canary import CanaryState
from serve_app.serving.replica.held_release import HeldRelease
from serve_app.serving.traffic.watched import Watched


def models_of(
    family: str,
    current: HeldRelease | None,
    canary: HeldRelease | None,
    aliases: Aliases | None,
) -> Models:
    """The models of the release, and the aliases that stand for one of them.

    canary: answers instead, if it has the model; None for who is not on its side.
    """
    if current is None:
        return {"release": None, "models": [], "weights": None}
    of = dict.fromkeys(current.models, current)
    if canary is not None:
        of |= dict.fromkeys(canary.models, canary)
    roots = {name: name for name in of}
    if aliases is not None:
        roots |= {name: alias.model for name, alias in aliases.aliases.items()}
    cards: list[ModelCard] = [
        {
            "id": name,
            "root": root,
            "kind": of[root].models[root].kind,
            "created": of[root].created,
            "owned_by": family,
            "max_model_len": of[root].models[root].context_length,
            "max_prompt_len": of[root].models[root].longest_prompt,
            "response_template": of[root].models[root].response_template,
            "release": of[root].id,
        }
        for name, root in roots.items()
        if root in of
    ]
    weights = [of[root].models[root].weights for root in of]
    return {"release": current.id, "models": cards, "weights": _least(weights)}


def _least(weights: Sequence[Sequence[float] | None]) -> list[float] | None:
    """Of each byte; None if one is not known."""
    known = [each for each in weights if each is not None]
    return [min(each) for each in zip(*known, strict=True)] if len(known) == len(weights) else None


def status_of(
    look: Snapshot, state: FollowState, canary: dict[str, Any] | None, aliases_error: str | None
) -> Status:
    """For `/health` and `/ready`."""
    stats, target = look.engine, state.target
    status: Status = {
        "healthy": look.trouble is None,
        "release": look.releases.serving,
        "detail": {
            "target": None if target is None else target.model_dump(exclude_none=True),
            "wanted": state.wanted,
            "staging": state.staging,
            "failed_release": None if state.failure is None else state.failure.release,
            "error": None if state.failure is None else state.failure.reason,
            "channel_error": state.trouble,
            "canary": canary,
            "aliases_error": aliases_error,
            "engine_error": look.trouble,
            "unavailable_models": {} if stats is None else unavailable_facts(stats),
            "broken_invariant": None if stats is None else stats.broken,
            "num_running": 0 if stats is None else stats.num_running,
            "num_waiting": 0 if stats is None else stats.num_waiting,
            **({} if stats is None else {"engine": engine_figures(look)}),
        },
    }
    if look.start_s is not None:
        status["start_s"] = look.start_s
    return status


def unavailable_facts(stats: Stats) -> dict[str, Any]:
    """Why which models answer 503, and in how many seconds their files are looked at again."""
    return {
        model: {
            "release": release,
            "error": outage.reason,
            "attempts": outage.attempts,
            "for_s": round(stats.heartbeat - outage.since, 1),
            "checked_in_s": round(max(0.0, outage.retry_at - stats.heartbeat), 1),
        }
        for (release, model), outage in stats.unavailable.items()
    }


def canary_facts(
    watched: Watched[Canary], state: CanaryState, canary: HeldRelease | None
) -> dict[str, Any] | None:
    """What is known of the canary; None without one. `serves`: whether it answers its share."""
    wanted = watched.value
    if wanted is None:
        return None if watched.trouble is None else {"error": watched.trouble}
    failed = None if state.failure is None else state.failure.reason
    return {
        "release": wanted.release,
        "percent": wanted.percent,
        "tenants": wanted.tenants,
        "serves": canary is not None and canary.id == wanted.release,
        "staging": state.staging is not None,
        "error": failed or watched.trouble,
    }
