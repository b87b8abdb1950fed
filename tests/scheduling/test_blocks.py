"""The ledger of KV blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scheduling.blocks import BlockLedger
from tests.scheduling.fakes import REPEATABLE


def test_positions_need_whole_blocks() -> None:
    ledger = BlockLedger(8, 4)
    assert [ledger.blocks_for(n) for n in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]


def test_more_blocks_than_are_free_are_refused_and_nothing_is_taken() -> None:
    ledger = BlockLedger(3, 4)
    ledger.allocate(2)
    with pytest.raises(ValueError, match="2 KV blocks wanted; 1 are free"):
        ledger.allocate(2)
    assert (ledger.num_free, ledger.num_used) == (1, 2)


@pytest.mark.parametrize("wrong", [[0, 0], [0, 2], [0, 99], [0, -1]])
def test_blocks_not_in_use_cannot_be_freed_and_nothing_is_given_back(wrong: list[int]) -> None:
    ledger = BlockLedger(3, 4)
    assert ledger.allocate(2) == [0, 1]
    with pytest.raises(ValueError, match="cannot be freed"):
        ledger.free(wrong)
    assert ledger.num_used == 2


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 4), (4, 0)])
def test_a_ledger_of_nothing_is_refused(num_blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BlockLedger(num_blocks, block_size)


def test_the_check_finds_a_block_with_two_owners_and_one_without() -> None:
    ledger = BlockLedger(3, 4)
    blocks = ledger.allocate(2)
    ledger.check([blocks])
    with pytest.raises(AssertionError, match="two owners"):
        ledger.check([blocks, blocks])
    with pytest.raises(AssertionError, match="used"):
        ledger.check([blocks[:1]])


@REPEATABLE
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40))
def test_no_block_is_ever_owned_twice_or_lost(acts: list[tuple[bool, int]]) -> None:
    ledger = BlockLedger(12, 2)
    owned: list[list[int]] = []
    for takes, number in acts:
        if takes and number <= ledger.num_free:
            owned.append(ledger.allocate(number))
        elif owned:
            ledger.free(owned.pop(number % len(owned)))
        ledger.check(owned)
