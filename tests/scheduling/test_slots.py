"""Rows of a shelf: held while a release needs their parts, free after."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.scheduling.slots import SlotLedger


def test_a_slot_that_is_there_gets_no_second_row() -> None:
    slots = SlotLedger(3)
    assert slots.take(["a", "b", "a"]) == ["a", "b"]
    assert slots.take(["b", "c"]) == ["c"]
    assert slots.num_free == 0
    assert sorted(slots.row(name) for name in "abc") == [0, 1, 2]


def test_a_row_is_free_when_the_last_release_gives_it_back() -> None:
    slots = SlotLedger(2)
    slots.take(["a"])
    slots.take(["a", "b"])
    slots.give_back(["a"])
    assert slots.num_free == 0
    slots.give_back(["a", "b"])
    assert slots.num_free == 2
    assert slots.missing(["a", "b"]) == ["a", "b"]


def test_taking_too_many_changes_nothing() -> None:
    slots = SlotLedger(2)
    slots.take(["a"])
    with pytest.raises(ValueError, match="2 parts are new and 1 rows are free"):
        slots.take(["a", "b", "c"])
    slots.give_back(["a"])
    assert slots.num_free == 2


def test_rows_can_be_added_but_not_taken_away() -> None:
    slots = SlotLedger(1)
    slots.take(["a"])
    slots.grow(2)
    assert slots.take(["b"]) == ["b"]
    assert slots.row("b") == 1
    with pytest.raises(ValueError, match="cannot shrink to 1"):
        slots.grow(1)
    with pytest.raises(ValueError, match="-1 rows"):
        SlotLedger(-1)


@settings(derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from("abcdef"), max_size=4), st.integers(0, 5)), max_size=12
    )
)
def test_rows_are_held_exactly_while_needed(acts: list[tuple[list[str], int]]) -> None:
    slots = SlotLedger(6)
    held: list[list[str]] = []
    for digests, which in acts:
        if which < len(held):
            slots.give_back(held.pop(which))
        slots.take(digests)
        held.append(digests)
        needed = Counter(digest for names in held for digest in set(names))
        assert slots.num_free == 6 - len(needed)
        rows = [slots.row(digest) for digest in needed]
        assert len(set(rows)) == len(rows)
