"""The ledger of backbone places."""

import pytest

from serve_app.scheduling.ledgers.places import PlaceLedger


def holding(*backbones: str, num_places: int | None = None) -> PlaceLedger:
    ledger = PlaceLedger(num_places or len(backbones))
    for place, backbone in enumerate(backbones):
        ledger.begin_load(backbone, place)
        ledger.loaded(backbone)
    return ledger


def test_a_place_is_empty_then_loading_then_resident() -> None:
    ledger = PlaceLedger(1)
    assert ledger.empty() == 0
    assert ledger.begin_load("a", 0) is None
    assert (ledger.loading, ledger.resident, ledger.is_resident("a")) == (("a",), (), False)
    ledger.loaded("a")
    assert (ledger.loading, ledger.resident, ledger.is_resident("a")) == ((), ("a",), True)
    assert (ledger.empty(), ledger.place_of("a"), ledger.num_places) == (None, 0, 1)


def test_a_pinned_backbone_is_never_evicted() -> None:
    ledger = holding("a")
    assert ledger.pin("a") == 0
    with pytest.raises(ValueError, match="'a' is pinned there by 1 sequences"):
        ledger.begin_load("b", 0)
    ledger.unpin("a")
    assert ledger.begin_load("b", 0) == "a"
    assert (ledger.num_loads, ledger.num_evictions) == (2, 1)


def test_a_loading_backbone_is_never_evicted() -> None:
    ledger = PlaceLedger(1)
    ledger.begin_load("a", 0)
    with pytest.raises(ValueError, match="'a' is loading there"):
        ledger.begin_load("b", 0)
    assert ledger.unpinned() == []


def test_a_backbone_has_one_place_at_most() -> None:
    ledger = holding("a", num_places=2)
    with pytest.raises(ValueError, match="has place 0 already"):
        ledger.begin_load("a", 1)


def test_the_least_recently_used_comes_first() -> None:
    ledger = holding("a", "b", "c")
    ledger.pin("a")
    ledger.unpin("a")
    ledger.pin("c")
    assert ledger.unpinned() == ["b", "a"]


def test_a_failed_load_leaves_an_empty_place() -> None:
    ledger = PlaceLedger(1)
    ledger.begin_load("a", 0)
    ledger.load_failed("a")
    assert (ledger.empty(), ledger.place_of("a")) == (0, None)
    with pytest.raises(ValueError, match="has no place"):
        ledger.load_failed("a")


def test_what_arrives_can_be_pinned_and_is_given_up_only_unpinned() -> None:
    ledger = PlaceLedger(1)
    ledger.begin_load("a", 0)
    ledger.arriving("a")
    assert (ledger.is_arriving("a"), ledger.is_resident("a")) == (True, False)
    assert ledger.pin("a") == 0
    assert ledger.pinned == ("a",)
    with pytest.raises(ValueError, match="'a' is pinned and cannot be given up"):
        ledger.load_failed("a")
    ledger.check({"a": 1})
    ledger.loaded("a")
    assert (ledger.is_arriving("a"), ledger.is_resident("a")) == (False, True)
    with pytest.raises(ValueError, match="resident, not loading"):
        ledger.arriving("a")


def test_only_what_loads_can_finish_loading() -> None:
    ledger = holding("a")
    with pytest.raises(ValueError, match="resident, not loading"):
        ledger.loaded("a")


def test_only_residents_are_pinned_and_only_pinned_ones_unpinned() -> None:
    ledger = holding("a", num_places=2)
    ledger.begin_load("b", 1)
    with pytest.raises(ValueError, match="'b' is not resident"):
        ledger.pin("b")
    with pytest.raises(ValueError, match="'a' is not pinned"):
        ledger.unpin("a")
    assert (ledger.pins("a"), ledger.pins("nobody")) == (0, 0)


def test_a_backbone_is_forgotten_unless_it_is_loading_or_pinned() -> None:
    ledger = holding("a", num_places=2)
    ledger.begin_load("b", 1)
    ledger.pin("a")
    assert [ledger.forget(b) for b in ("a", "b", "nobody")] == [False, False, True]
    ledger.unpin("a")
    assert ledger.forget("a")
    assert ledger.empty() == 0


def test_no_places_are_refused() -> None:
    with pytest.raises(ValueError, match="num_places 0"):
        PlaceLedger(0)


def test_the_check_finds_pins_that_nobody_needs() -> None:
    ledger = holding("a")
    ledger.pin("a")
    ledger.check({"a": 1})
    with pytest.raises(AssertionError, match="pins"):
        ledger.check({"a": 2})
