"""What those who run a replica may see, and change in its memory. Serves no request.

Pins are by the name of a model: they hold for the release that the channel points at, whichever
that is, and are gone with the process.
"""

import logging
from collections.abc import Mapping
from typing import Any

from consolidation.release import Aliases, Canary
from serve_app.engine.residents import Place, Residence
from serve_app.engine.stats import Stats
from serve_app.errors import EngineError, InUse, TooManyPinned
from serve_app.protocol.errors import ProtocolError, bad_request, loading, no_such_model
from serve_app.protocol.messages import AdminAction, AdminDone, AdminFacts, ErrorItem
from serve_app.serving.replica.follow import FollowState
from serve_app.serving.replica.follow_canary import CanaryFollower
from serve_app.serving.replica.held_release import HeldRelease
from serve_app.serving.replica.post import outcome
from serve_app.serving.replica.served_releases import ServedReleases
from serve_app.serving.replica.telling.status_facts import canary_facts, unavailable_facts
from serve_app.serving.traffic.aliasing import alias_of
from serve_app.serving.traffic.watched import Watched

_log = logging.getLogger(__name__)


class Administration:
    """Of one replica, which `name` names."""

    def __init__(
        self,
        name: str,
        releases: ServedReleases,
        follow: FollowState,
        canary: Watched[Canary],
        canary_follower: CanaryFollower,
        aliases: Watched[Aliases],
    ) -> None:
        self._name = name
        self._releases = releases
        self._follow = follow
        self._canary = canary
        self._canary_follower = canary_follower
        self._aliases = aliases
        self._pins: set[str] = set()
        self._applied: frozenset[tuple[str, str]] = frozenset()

    async def facts(self) -> AdminFacts:
        """All sections of what `/admin` shows."""
        loop = self._releases.loop
        aliases = self._aliases.value
        return {
            "replica": self._name,
            "releases": self._release_facts(),
            "channels": self._channel_facts(),
            "aliases": {
                "aliases": {} if aliases is None else aliases.model_dump(mode="json")["aliases"],
                "error": self._aliases.trouble,
            },
            "residency": {
                "pins": sorted(self._pins),
                "unavailable_models": {} if loop is None else unavailable_facts(loop.stats()),
                **({} if loop is None else residency_facts(await outcome(loop.residence()))),
            },
            "queue": {} if loop is None else queue_facts(loop.stats()),
        }

    async def change(self, model: str, action: AdminAction) -> AdminDone | ErrorItem:
        """Does it in memory. A model that is not there, or cannot do it now, is an ErrorItem."""
        try:
            release = await self._change(model, action)
        except ProtocolError as error:
            return error.to_item()
        except (InUse, TooManyPinned) as error:
            return bad_request(str(error), "model").to_item()
        except EngineError as error:
            return loading(f"the engine could not do it: {error}").to_item()
        return {"type": "done", "replica": self._name, "release": release}

    async def _change(self, asked: str, action: AdminAction) -> str:
        current, loop = self._releases.current, self._releases.loop
        if current is None or loop is None:
            raise loading("no release is being served yet")
        alias = alias_of(self._aliases.value, asked)
        model = asked if alias is None else alias.model
        if action == "unpin" and model in self._pins:
            await self._pin(self._pins - {model})
            return current.id
        if model not in current.models:
            raise no_such_model(asked)
        if action == "load":
            await outcome(loop.load((current.id, model)))
        elif action == "unload":
            await outcome(loop.unload((current.id, model)))
        elif action == "pin":
            await self._pin(self._pins | {model})
        return current.id

    async def renew_pins(self) -> None:
        """Pins the same models of the release that is current now, if it is another one.

        If that cannot be, the log says so once, and nothing of that release is pinned.
        """
        wanted = self._wanted_pins(self._pins)
        if not self._pins or wanted == self._applied:
            return
        try:
            await self._pin(self._pins)
        except EngineError as error:
            self._applied = wanted
            _log.error("pins were lost with the last release: %s", error)

    async def _pin(self, names: set[str]) -> None:
        wanted = self._wanted_pins(names)
        if self._releases.loop is not None:
            await outcome(self._releases.loop.pin(wanted))
        self._pins, self._applied = names, wanted

    def _wanted_pins(self, names: set[str]) -> frozenset[tuple[str, str]]:
        current = self._releases.current
        models: Mapping[str, Any] = {} if current is None else current.models
        release = "" if current is None else current.id
        return frozenset((release, name) for name in names if name in models)

    def _release_facts(self) -> list[dict[str, Any]]:
        """Those in the engine, that which is being loaded, and those that could not be."""
        releases, canary = self._releases, self._canary_follower.state
        found = [
            {
                "release": held.id,
                "state": self._state(held),
                "models": sorted(held.models),
                "requests": held.num_holders,
            }
            for held in releases.held
        ]
        staging = {self._follow.staging, canary.staging} - {held.id for held in releases.held}
        found += [{"release": one, "state": "staging"} for one in sorted(staging - {None}, key=str)]
        for failure in (self._follow.failure, canary.failure):
            if failure is not None and failure.release not in staging:
                error = {"error": failure.reason, "attempts": failure.attempts}
                found.append({"release": failure.release, "state": "failed", **error})
        return found

    def _state(self, held: HeldRelease) -> str:
        if held is self._releases.current:
            return "serving"
        return "canary" if held is self._releases.canary else "ending"

    def _channel_facts(self) -> dict[str, Any]:
        target = self._follow.target
        return {
            "target": None if target is None else target.model_dump(exclude_none=True),
            "wanted": self._follow.wanted,
            "serving": self._releases.serving,
            "error": self._follow.trouble,
            "canary": canary_facts(
                self._canary, self._canary_follower.state, self._releases.canary
            ),
        }


def residency_facts(residence: Residence) -> dict[str, Any]:
    """Places in order, what waits for one, and how often one changed hands."""
    return {
        "num_places": len(residence.places),
        "num_switches": residence.num_switches,
        "wanted": [_model(*key) for key in residence.wanted],
        "places": [_place(place) for place in residence.places],
    }


def queue_facts(stats: Stats) -> dict[str, Any]:
    """What runs and waits, in all and by tenant."""
    return {
        "num_running": stats.num_running,
        "num_waiting": stats.num_waiting,
        "tenants": {
            name: {
                "num_running": backlog.num_running,
                "num_waiting": backlog.num_waiting,
                "waiting_tokens": backlog.waiting_tokens,
            }
            for name, backlog in sorted(stats.by_tenant.items())
        },
    }


def _place(place: Place) -> dict[str, Any]:
    if place.state == "empty":
        return {"state": "empty"}
    return {
        "state": place.state,
        "models": [_model(*key) for key in place.models],
        "bytes": place.num_bytes,
        "pinned": place.is_pinned,
        "draining": place.drains,
        "num_running": place.num_running,
        "num_waiting": place.num_waiting,
    }


def _model(release: str, name: str) -> dict[str, str]:
    return {"release": release, "model": name}
