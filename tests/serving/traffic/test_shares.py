"""On which side of a canary requests are."""

from datetime import UTC, datetime

import pytest

from consolidation.release import Canary, Side
from serve_app.serving.traffic.shares import side_of

AT = datetime(2026, 11, 29, tzinfo=UTC)


def _canary(percent: float, **tenants: Side) -> Canary:
    return Canary(release="r2", percent=percent, tenants=tenants, at=AT)


def _on_it(canary: Canary) -> set[str]:
    users = [f"user-{number}" for number in range(2000)]
    return {user for user in users if side_of(canary, "acme", user) == "canary"}


@pytest.mark.parametrize("percent", [0, 5, 50, 95, 100])
def test_a_share_of_conversations_is_on_the_canarys_side(percent: float) -> None:
    assert len(_on_it(_canary(percent))) / 2000 == pytest.approx(percent / 100, abs=0.025)


def test_a_conversation_stays_on_the_canarys_side_when_the_share_grows() -> None:
    assert _on_it(_canary(5)) < _on_it(_canary(20)) < _on_it(_canary(100))


def test_the_same_user_of_another_tenant_is_another_conversation() -> None:
    canary = _canary(50)
    sides = {side_of(canary, f"tenant-{number}", "user") for number in range(20)}
    assert sides == {"stable", "canary"}


def test_a_named_tenant_is_always_on_its_side() -> None:
    assert side_of(_canary(0, acme="canary"), "acme", "anyone") == "canary"
    assert side_of(_canary(100, acme="stable"), "acme", "anyone") == "stable"
    assert side_of(_canary(100, acme="stable"), "other", "anyone") == "canary"


def test_without_a_canary_there_is_one_side() -> None:
    assert side_of(None, "acme", "anyone") == "stable"


def test_a_name_that_is_no_unicode_has_a_side() -> None:
    assert side_of(_canary(100), "acme", "\ud800") == "canary"
