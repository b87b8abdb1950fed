"""What a replica tells of its releases: models, aliases, the canary. Values in, plain dicts out."""

from typing import Any

from consolidation.release import Aliases, Canary
from serve_app.protocol.messages import ModelCard, Models
from serve_app.serving.replica.follow_canary import CanaryState
from serve_app.serving.replica.served_releases import HeldRelease
from serve_app.serving.traffic.watched import Watched


def models_of(family: str, current: HeldRelease | None, aliases: Aliases | None) -> Models:
    """The models of the release, and the aliases that stand for one of them."""
    if current is None:
        return {"release": None, "models": []}
    roots = {name: name for name in current.models}
    if aliases is not None:
        roots |= {name: alias.model for name, alias in aliases.aliases.items()}
    cards: list[ModelCard] = [
        {
            "id": name,
            "root": root,
            "created": current.created,
            "owned_by": family,
            "max_model_len": current.models[root].context_length,
            "release": current.id,
        }
        for name, root in roots.items()
        if root in current.models
    ]
    return {"release": current.id, "models": cards}


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
