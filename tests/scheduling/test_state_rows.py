"""Rows of state are counted: one for each running sequence, none twice, none lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scheduling.ledgers.state_rows import StateLedger


def test_a_sequence_of_any_length_needs_one_row() -> None:
    ledger = StateLedger(2)
    assert [ledger.units_for(n) for n in (0, 1, 1 << 40)] == [0, 1, 1]
    assert ledger.positions_in(0) == 0
    assert ledger.positions_in(1) > 1 << 40


def test_more_rows_than_are_free_are_refused_and_nothing_is_taken() -> None:
    ledger = StateLedger(2)
    assert len(ledger.take(1)) == 1
    with pytest.raises(ValueError, match="2 rows of state wanted; 1 are free"):
        ledger.take(2)
    assert (ledger.num_free, ledger.num_used) == (1, 1)
    with pytest.raises(ValueError, match="cannot be -1 rows"):
        StateLedger(-1)


@pytest.mark.parametrize("given_back", [[0, 0], [5], [1]])
def test_rows_that_are_not_in_use_are_not_taken_back(given_back: list[int]) -> None:
    ledger = StateLedger(3)
    taken = ledger.take(1)
    with pytest.raises(ValueError, match="cannot be given back"):
        ledger.give_back(given_back)
    ledger.check([taken])
    with pytest.raises(AssertionError, match="owned"):
        ledger.check([taken, taken])


@given(st.lists(st.integers(0, 3), max_size=30))
def test_no_row_is_lost_or_has_two_owners(counts: list[int]) -> None:
    ledger, owners = StateLedger(4), list[list[int]]()
    for count in counts:
        if ledger.fits(count):
            owners.append(ledger.take(count))
        elif owners:
            ledger.give_back(owners.pop(0))
        ledger.check(owners)
