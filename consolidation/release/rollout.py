"""The life of a canary: started, given another share, promoted or aborted. Serves nothing."""

from collections.abc import Mapping
from datetime import datetime

from consolidation.release.canaries import Canary, Side
from consolidation.release.channels import Channel
from consolidation.release.errors import CanaryRefused, NotFound
from consolidation.release.registry import Registry


def start_canary(
    registry: Registry, channel: str, release: str, percent: float, tenants: Mapping[str, Side]
) -> Canary:
    """Let `release` answer a share of the channel's requests.

    Raises `CanaryRefused` if the channel points at it already or has a canary, `NotFound` without
    such a channel or release.
    """
    stable = _channel(registry, channel)
    registry.read_manifest(release)
    if stable.release == release:
        raise CanaryRefused(f"channel {channel!r} points at {release} already")

    def start(before: Canary | None, at: datetime) -> Canary:
        if before is not None and before.release is not None:
            raise CanaryRefused(
                f"channel {channel!r} has a canary: {before.release}; promote or abort it first"
            )
        return Canary(release=release, percent=percent, tenants=dict(tenants), at=at)

    return registry.change_canary(channel, start)


def set_canary(
    registry: Registry, channel: str, percent: float, tenants: Mapping[str, Side] | None
) -> Canary:
    """Give the canary another share, and other tenants if they are given.

    Raises `CanaryRefused` without a canary.
    """

    def change(before: Canary | None, at: datetime) -> Canary:
        running = _running(before, channel)
        named = running.tenants if tenants is None else dict(tenants)
        return Canary(release=running.release, percent=percent, tenants=named, at=at)

    return registry.change_canary(channel, change)


def promote_canary(registry: Registry, channel: str) -> Channel:
    """Point the channel at the canary, which then is one no longer.

    If this is interrupted in between, the channel points at it; promoting it again ends it.
    Raises `CanaryRefused` without a canary, `ChannelMoved` if another moves the channel meanwhile.
    """
    stable = _channel(registry, channel)
    canary = _running(registry.canary(channel), channel)
    assert canary.release is not None
    moved = registry.move_channel(channel, canary.release, expected=stable.release)

    def end(before: Canary | None, at: datetime) -> Canary:
        is_it = before is not None and before.release == canary.release
        return Canary.none(at) if before is None or is_it else before

    registry.change_canary(channel, end)
    return moved


def abort_canary(registry: Registry, channel: str) -> str:
    """Let the channel's own release answer all requests again. -> the release that was the canary

    Raises `CanaryRefused` without a canary.
    """
    ended: list[str] = []

    def end(before: Canary | None, at: datetime) -> Canary:
        ended.append(str(_running(before, channel).release))
        return Canary.none(at)

    registry.change_canary(channel, end)
    return ended[-1]  # by the last try, if others changed it meanwhile


def _channel(registry: Registry, name: str) -> Channel:
    found = registry.channel(name)
    if found is None:
        raise NotFound(f"family {registry.family!r} has no channel {name!r}")
    return found


def _running(canary: Canary | None, channel: str) -> Canary:
    if canary is None or canary.release is None:
        raise CanaryRefused(f"channel {channel!r} has no canary")
    return canary
