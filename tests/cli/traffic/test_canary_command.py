"""Commands that start, change, promote and abort a canary."""

import json
from collections.abc import Callable

import pytest

from consolidation.release import Canary, Registry

Call = Callable[..., tuple[int, str, str]]
Publish = Callable[[str], str]


@pytest.fixture
def two(call: Call, publish: Publish, registry: Registry) -> tuple[str, str]:
    """Two releases; the channel `stable` points at the first."""
    first, second = publish("one"), publish("two")
    registry.move_channel("stable", first)
    return first, second


def _now(registry: Registry) -> Canary:
    found = registry.canary("stable")
    assert found is not None
    return found


def test_a_canary_is_started_with_a_small_share_and_given_another(
    call: Call, registry: Registry, two: tuple[str, str]
) -> None:
    code, out, err = call("canary", "start", two[1][:6])
    assert (code, err) == (0, "")
    assert f"canary {two[1]} for 5 % of requests" in out
    assert call("canary", "set", "20")[0] == 0
    assert (_now(registry).release, _now(registry).percent) == (two[1], 20)


def test_tenants_that_are_named_stay_until_others_are(
    call: Call, registry: Registry, two: tuple[str, str]
) -> None:
    call("canary", "start", two[1], "--tenant", "acme", "--not-tenant", "bank")
    out = call("canary", "set", "20")[1]
    assert "always: acme; never: bank" in out
    call("canary", "set", "20", "--tenant", "zoo")
    assert _now(registry).tenants == {"zoo": "canary"}


def test_releases_show_the_canary_and_whose_it_is(call: Call, two: tuple[str, str]) -> None:
    call("canary", "start", two[1], "--share", "12.5")
    assert f"canary of channel stable: {two[1]} for 12.5 % of requests" in call("releases")[1]
    shown = json.loads(call("releases", "--json")[1])["canaries"]["stable"]
    assert (shown["release"], shown["percent"], shown["tenants"]) == (two[1], 12.5, {})


def test_promoting_moves_the_channel_and_ends_the_canary(
    call: Call, registry: Registry, two: tuple[str, str]
) -> None:
    call("canary", "start", two[1])
    code, out, _ = call("canary", "promote")
    assert code == 0
    assert f"{two[0]} → {two[1]}" in out
    moved = registry.channel("stable")
    assert moved is not None
    assert (moved.release, moved.previous) == two[::-1]
    assert registry.canary("stable") is None
    assert call("canary", "promote")[0] == 2
    assert call("canary", "start", two[0])[0] == 0, "another may follow"


def test_aborting_leaves_the_channel_where_it_is(
    call: Call, registry: Registry, two: tuple[str, str]
) -> None:
    call("canary", "start", two[1])
    assert call("canary", "abort")[0] == 0
    assert registry.canary("stable") is None
    channel = registry.channel("stable")
    assert channel is not None
    assert channel.release == two[0]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("start", "feedfeedfeedfeed"), "feedfeedfeedfeed"),
        (("start", "stable"), "points at"),
        (("start", "two", "--channel", "other"), "no channel 'other'"),
        (("start", "two", "--share", "101"), "from 0 to 100"),
        (("start", "two", "--tenant", "a", "--not-tenant", "a"), "'a' is given to --tenant too"),
        (("set", "nan"), "not a number"),
        (("set", "20"), "no canary"),
        (("promote",), "no canary"),
        (("abort",), "no canary"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    call: Call,
    registry: Registry,
    two: tuple[str, str],
    wanted: tuple[str, ...],
    said: str,
) -> None:
    named = [two[1] if word == "two" else word for word in wanted]
    code, out, err = call("canary", *named)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert registry.canary("stable") is None


def test_a_second_canary_is_refused_with_the_first(
    call: Call, publish: Publish, two: tuple[str, str]
) -> None:
    call("canary", "start", two[1])
    code, _, err = call("canary", "start", publish("three"))
    assert code == 2
    assert two[1] in err


def test_a_damaged_file_is_named(call: Call, registry: Registry, two: tuple[str, str]) -> None:
    registry.storage.write("canaries/stable.json", b'{"release": 1}')
    code, _, err = call("canary", "set", "20")
    assert code == 1
    assert "canaries/stable.json is not a canary" in err
