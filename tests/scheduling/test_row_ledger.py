"""Rows of a shelf: held while a release needs their parts, free after."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.scheduling.ledgers.row_ledger import RowLedger


def test_a_slot_that_is_there_gets_no_second_row() -> None:
    rows = RowLedger(3)
    assert rows.take(["a", "b", "a"]) == ["a", "b"]
    assert rows.take(["b", "c"]) == ["c"]
    assert rows.num_free == 0
    assert sorted(rows.row(name) for name in "abc") == [0, 1, 2]


def test_a_row_is_free_when_the_last_release_gives_it_back() -> None:
    rows = RowLedger(2)
    rows.take(["a"])
    rows.take(["a", "b"])
    rows.give_back(["a"])
    assert rows.num_free == 0
    rows.give_back(["a", "b"])
    assert rows.num_free == 2
    assert rows.missing(["a", "b"]) == ["a", "b"]


def test_taking_too_many_changes_nothing() -> None:
    rows = RowLedger(2)
    rows.take(["a"])
    with pytest.raises(ValueError, match="2 parts are new and 1 rows are free"):
        rows.take(["a", "b", "c"])
    rows.give_back(["a"])
    assert rows.num_free == 2


def test_rows_can_be_added_but_not_taken_away() -> None:
    rows = RowLedger(1)
    rows.take(["a"])
    rows.grow(2)
    assert rows.take(["b"]) == ["b"]
    assert rows.row("b") == 1
    with pytest.raises(ValueError, match="cannot shrink to 1"):
        rows.grow(1)
    with pytest.raises(ValueError, match="-1 rows"):
        RowLedger(-1)


def test_the_check_finds_parts_that_nobody_needs_and_those_that_are_not_held() -> None:
    rows = RowLedger(2)
    rows.take(["a"])
    rows.check([["a"]])
    for wrong in ([], [["a"], ["a"]], [["a", "b"]]):
        with pytest.raises(AssertionError, match="needed"):
            rows.check(wrong)
    assert rows.fits(["a", "b"])
    assert not rows.fits(["b", "c"])


@settings(derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from("abcdef"), max_size=4), st.integers(0, 5)), max_size=12
    )
)
def test_rows_are_held_exactly_while_needed(acts: list[tuple[list[str], int]]) -> None:
    rows = RowLedger(6)
    held: list[list[str]] = []
    for digests, which in acts:
        if which < len(held):
            rows.give_back(held.pop(which))
        rows.take(digests)
        held.append(digests)
        rows.check(held)
        needed = Counter(digest for names in held for digest in set(names))
        assert rows.num_free == 6 - len(needed)
        found = [rows.row(digest) for digest in needed]
        assert len(set(found)) == len(found)
