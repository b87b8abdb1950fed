"""What sequences need: of all kinds or of none, and the scheduler knows no kind by name."""

import pytest

from serve_app.scheduling.errors import NeverFits
from serve_app.scheduling.ledgers.blocks import BLOCKS, BlockLedger
from serve_app.scheduling.ledgers.state_rows import STATE_ROWS, StateLedger
from serve_app.scheduling.needs import Needs
from serve_app.scheduling.sequence import Sequence
from tests.scheduling.fakes import World, alone
from tests.scheduling.test_scheduler import planned, resident


def of(length: int, max_tokens: int = 1) -> Sequence:
    return Sequence("s", ("r", "m"), "b", (1,) * length, max_tokens)


def test_a_sequence_gets_of_all_kinds_or_of_none() -> None:
    blocks, states = BlockLedger(4, 2), StateLedger(1)
    needs = Needs([blocks, states])
    first, second = of(3), of(3)
    assert needs.take(first, 3) == {BLOCKS: (0, 1), STATE_ROWS: (0,)}
    assert not needs.fits(second, {})
    with pytest.raises(ValueError, match="sequence 's' lacks 1 rows of state; 0 are free"):
        needs.take(second, 3)
    assert (second.held, blocks.num_free) == ({}, 2)
    needs.check([first])
    needs.give_back(first)
    assert (first.held, blocks.num_free, states.num_free) == ({}, 4, 1)
    assert needs.fits(second, {})


def test_what_is_shared_need_not_be_free() -> None:
    needs = Needs([BlockLedger(2, 2)])
    assert not needs.fits(of(6), {})
    assert needs.fits(of(6), {BLOCKS: 1})


def test_more_of_any_kind_than_there_is_in_all_is_refused() -> None:
    needs = Needs([BlockLedger(9, 2), StateLedger(0)])
    with pytest.raises(NeverFits, match=r"'s' needs 1 rows of state for .*; there are 0"):
        needs.require(of(3))


def test_room_is_that_of_the_scarcest_kind() -> None:
    needs = Needs([BlockLedger(4, 2), StateLedger(1)])
    first, second = of(3), of(3)
    assert needs.room(second) == 8
    needs.take(first, 2)
    assert (needs.room(first), needs.room(second)) == (8, 0)
    assert needs.fit([(first, 6)])
    assert not needs.fit([(first, 6), (second, 1)])


def test_the_check_finds_who_has_too_little_for_what_is_computed() -> None:
    needs = Needs([BlockLedger(4, 2)])
    sequence = of(3)
    needs.take(sequence, 2)
    sequence.num_computed = 3
    with pytest.raises(AssertionError, match="s computed what it cannot hold"):
        needs.check([sequence])


def test_with_a_second_kind_as_many_run_as_there_is_of_it() -> None:
    world = resident(World(num_states=2), "a")
    sequences = [world.add(3, max_tokens=4) for _ in range(5)]
    assert len(planned(world.begin_step())) == 2
    world.end_step()
    world.run()
    assert all(world.generated[s.id] == alone(s)[0] for s in sequences)


def test_a_preempted_sequence_gives_its_state_back_and_begins_with_another() -> None:
    world = resident(World(num_blocks=6, block_size=2, num_states=3), "a")
    for _ in range(3):
        world.add(3, max_tokens=6)
    world.run()
    assert world.scheduler.num_preemptions
    assert world.num_used == 0
