"""An endpoint on this machine, as `expertpool serve` starts it, for a benchmark's weights."""

import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from consolidation.release import Registry
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import ArmSpec
from serve_app.bench.arms.endpoint import HttpSpec
from serve_app.bench.arms.weight_specs import PublishedSpec
from serve_app.bench.http.publishing import publish
from serve_app.config import ServeConfig, UserConfig
from serve_app.errors import EngineError

READY_S = 120.0


@contextmanager
def published(ground: Ground) -> Iterator[Ground]:
    """The same ground, with its weights in a registry: where they are, or one for the block."""
    if isinstance(ground.source, PublishedSpec):
        yield ground
        return
    with tempfile.TemporaryDirectory(prefix="expertpool-bench-") as place:
        registry = Registry(place, "bench")
        release = publish(ground.source.open(), registry)
        yield replace(ground, source=PublishedSpec(place, registry.family, release))


@dataclass(frozen=True, slots=True)
class Kept:
    """An endpoint's tenants.   settings: fields of ServeConfig about them.   key: to ask with."""

    settings: Mapping[str, Any]
    key: str


@contextmanager
def endpoint_of(
    ground: Ground, kept: Kept | None = None, channel: str | None = None
) -> Iterator[ArmSpec]:
    """Serve what `published` gave, on a free port of the loopback. Yields a client of it.

    channel: of that registry, to follow; without one, the release is pinned.
    Imports Ray here. Raises: EngineError if it does not get ready.
    """
    from serve_app.serving.run import endpoint, free_port

    source = ground.source
    assert isinstance(source, PublishedSpec), "an endpoint serves what is published"
    about = {} if kept is None else kept.settings
    config = ServeConfig(
        registry=source.registry, family=source.family, engine=ground.engine, **about
    )
    user = UserConfig(release=source.release) if channel is None else UserConfig(channel=channel)
    with endpoint(config, user, free_port()) as address:
        _wait_until_ready(address)
        key = None if kept is None else kept.key
        yield ArmSpec("http", (HttpSpec(address, ground.models, key=key),))


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(f"{address}/ready", timeout=READY_S):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise EngineError(f"{address} is not ready after {READY_S:g} s") from error
        time.sleep(0.1)
