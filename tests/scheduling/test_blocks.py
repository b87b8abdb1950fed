"""The ledger of KV blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scheduling.ledgers.blocks import BlockLedger, ContentKey
from tests.scheduling.fakes import REPEATABLE


def test_positions_need_whole_blocks() -> None:
    ledger = BlockLedger(8, 4)
    assert [ledger.units_for(n) for n in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]
    assert [ledger.positions_in(n) for n in (0, 1, 2)] == [0, 4, 8]


def test_more_blocks_than_are_free_are_refused_and_nothing_is_taken() -> None:
    ledger = BlockLedger(3, 4)
    ledger.take(2)
    with pytest.raises(ValueError, match="2 KV blocks wanted; 1 are free"):
        ledger.take(2)
    assert (ledger.num_free, ledger.num_used) == (1, 2)
    assert [ledger.fits(count) for count in (0, 1, 2)] == [True, True, False]


@pytest.mark.parametrize("wrong", [[0, 0], [0, 2], [0, 99], [0, -1]])
def test_blocks_not_in_use_cannot_be_freed_and_nothing_is_given_back(wrong: list[int]) -> None:
    ledger = BlockLedger(3, 4)
    assert ledger.take(2) == [0, 1]
    with pytest.raises(ValueError, match="cannot be given back"):
        ledger.give_back(wrong)
    assert ledger.num_used == 2


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 4), (4, 0)])
def test_a_ledger_of_nothing_is_refused(num_blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BlockLedger(num_blocks, block_size)


def test_the_check_finds_a_block_with_two_owners_and_one_without() -> None:
    ledger = BlockLedger(3, 4)
    blocks = ledger.take(2)
    ledger.check([blocks])
    with pytest.raises(AssertionError, match="owned"):
        ledger.check([blocks, blocks])
    with pytest.raises(AssertionError, match="used"):
        ledger.check([blocks[:1]])


def key(name: str, release: str = "r1") -> ContentKey:
    return release, name.encode()


def test_what_is_known_of_a_block_is_found_until_somebody_else_gets_it() -> None:
    ledger = BlockLedger(3, 4)
    blocks = ledger.take(2)
    for block, name in zip(blocks, "ab", strict=True):
        ledger.keep(block, key(name))
    ledger.give_back(blocks)
    assert ledger.num_free == 3
    assert ledger.find([key("a"), key("b"), key("c")]) == blocks
    assert ledger.find([key("c"), key("a")]) == []
    ledger.take(2)
    assert ledger.find([key("a"), key("b")]) == blocks[:1], "the end of a chain goes first"
    ledger.take(1)
    assert ledger.find([key("a")]) == []


def test_what_was_given_back_longest_ago_goes_first() -> None:
    ledger = BlockLedger(2, 4)
    old, new = ledger.take(2)
    ledger.keep(old, key("old"))
    ledger.keep(new, key("new"))
    ledger.give_back([old])
    ledger.give_back([new])
    ledger.share([old])
    ledger.give_back([old])
    assert ledger.take(1) == [new]
    assert ledger.find([key("old")]) == [old]


def test_a_shared_block_is_free_when_the_last_gives_it_back() -> None:
    ledger = BlockLedger(2, 4)
    (block,) = ledger.take(1)
    ledger.keep(block, key("a"))
    ledger.share([block])
    ledger.check([[block], [block]])
    ledger.give_back([block])
    assert (ledger.is_used(block), ledger.num_used) == (True, 1)
    ledger.give_back([block])
    assert (ledger.is_used(block), ledger.num_used) == (False, 0)


def test_blocks_of_unknown_content_cannot_be_shared() -> None:
    ledger = BlockLedger(2, 4)
    blocks = ledger.take(2)
    ledger.keep(blocks[0], key("a"))
    for wrong in (blocks, [blocks[0]] * 2):
        with pytest.raises(ValueError, match="cannot be shared"):
            ledger.share(wrong)
    ledger.check([blocks])


def test_one_block_is_known_by_a_key_and_one_key_is_known_of_a_block() -> None:
    ledger = BlockLedger(3, 4)
    one, other, free = ledger.take(3)
    ledger.give_back([free])
    ledger.keep(one, key("a"))
    ledger.keep(other, key("a"))
    ledger.keep(one, key("b"))
    ledger.keep(free, key("c"))
    assert [ledger.find([key(name)]) for name in "abc"] == [[one], [], []]
    ledger.check([[one, other]])


def test_the_content_of_a_release_is_forgotten_and_no_other() -> None:
    ledger = BlockLedger(3, 4)
    blocks = ledger.take(3)
    for block, release in zip(blocks, ("r1", "r2", "r1"), strict=True):
        ledger.keep(block, key(str(block), release))
    ledger.give_back(blocks[:2])
    ledger.forget("r1")
    assert ledger.find([key(str(blocks[1]), "r2")]) == [blocks[1]]
    assert ledger.find([key(str(blocks[0]))]) == ledger.find([key(str(blocks[2]))]) == []
    ledger.check([blocks[2:]])


@REPEATABLE
@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "give", "keep", "find", "forget"]), st.integers(0, 9)),
        max_size=60,
    )
)
def test_no_block_is_ever_lost_and_content_is_what_was_kept(acts: list[tuple[str, int]]) -> None:
    """Against a model: what was written to each block since somebody got it."""
    ledger = BlockLedger(8, 2)
    owned: list[list[int]] = []
    held: dict[int, ContentKey] = {}
    for act, number in acts:
        name = key(str(number), f"r{number % 2}")
        if act == "take" and number <= ledger.num_free:
            owned.append(ledger.take(number))
            for block in owned[-1]:
                held.pop(block, None)
        elif act == "give" and owned:
            ledger.give_back(owned.pop(number % len(owned)))
        elif act == "keep" and owned and owned[number % len(owned)]:
            block = owned[number % len(owned)][0]
            ledger.keep(block, name)
            if name not in held.values():
                held.setdefault(block, name)
        elif act == "find" and ledger.find([name]):
            owned.append(ledger.find([name]))
            ledger.share(owned[-1])
        elif act == "forget" and not any(ledger.is_used(b) for b in held):
            ledger.forget(name[0])
            held = {b: other for b, other in held.items() if other[0] != name[0]}
        ledger.check(owned)
        for block, known in held.items():
            assert ledger.find([known]) == [block]
