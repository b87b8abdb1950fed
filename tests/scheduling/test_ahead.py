"""Steps that are planned while the step before them is under way, by example."""

import pytest

from serve_app.scheduling.events import Continued, Finished
from serve_app.scheduling.plan import StepPlan
from serve_app.scheduling.sequence import Sequence
from tests.scheduling.fakes import World, alone, blocks_of
from tests.scheduling.test_scheduler import planned, resident


def under_way(*lengths: int, step_tokens: int = 16) -> tuple[World, list[Sequence]]:
    """A world in which one step is under way: the first of sequences of one prompt token each."""
    world = resident(World(step_tokens=step_tokens), "a")
    sequences = [world.add(1, max_tokens=length) for length in lengths]
    world.begin_step()
    return world, sequences


def test_the_token_under_way_is_the_next_steps_input() -> None:
    world, (sequence,) = under_way(3)
    (chunk,) = world.begin_ahead().chunks
    assert (chunk.pending, chunk.start, chunk.tokens, chunk.samples) == (True, 1, (0,), True)
    assert chunk.num_generated == 1
    assert world.end_step() == [Continued("s1", alone(sequence)[0][0])]
    (chunk,) = world.begin_ahead().chunks
    assert (chunk.pending, chunk.start, chunk.num_generated) == (True, 2, 2)
    world.run()


def test_whoever_ends_with_the_token_under_way_gets_no_more() -> None:
    world, (short, long) = under_way(1, 2)
    assert planned(world.begin_ahead()) == {long.id: 1}
    assert [type(event) for event in world.end_step()] == [Finished, Continued]
    assert world.begin_ahead() == StepPlan()
    assert [event.id for event in world.end_step()] == [long.id]
    assert blocks_of(short) == []


def test_who_stops_is_passed_over_and_its_blocks_are_free_at_once() -> None:
    world = resident(World(num_blocks=3, block_size=4), "a")
    stopped = world.add([1, 2, 3], max_tokens=9, stop=range(99))
    world.begin_step()
    assert planned(world.begin_ahead()) == {stopped.id: 1}
    assert [event.id for event in world.end_step()] == [stopped.id]
    assert (blocks_of(stopped), world.blocks.num_used) == ([], 0)
    next_in = world.add(9, max_tokens=3)
    assert planned(world.begin_ahead()) == {next_in.id: 9}
    assert world.end_step() == []
    world.run()


def test_an_abort_passes_over_both_steps_and_an_id_may_be_used_again() -> None:
    world, (gone, stays) = under_way(9, 2)
    world.begin_ahead()
    world.abort(gone.id)
    again = Sequence(gone.id, gone.model, gone.backbone, (1, 2), 2)
    world.scheduler.add(again, world.now)
    assert [event.id for event in world.end_step()] == [stays.id]
    (chunk,) = world.scheduler.schedule_ahead(world.now).chunks
    assert (chunk.sequence, chunk.pending, chunk.tokens) == (gone.id, False, (1, 2))
    assert again.num_pending == 1
    assert [event.id for event in world.end_step()] == [stays.id]
    assert again.tokens == [1, 2]


def test_nothing_is_planned_ahead_where_blocks_are_short() -> None:
    world = resident(World(num_blocks=6, block_size=2, ahead=True), "a")
    early = world.add(5, max_tokens=7)
    late = world.add(5, max_tokens=6)
    waits = 0
    while not late.num_preemptions:
        world.begin_step()
        while world.can_plan_ahead and world.begin_ahead().chunks:
            world.end_step()
        waits += 1
        world.end_step()
    assert (early.num_preemptions, waits) == (0, 2)
    world.run()
    assert world.generated[late.id] == alone(late)[0]


def test_nothing_is_planned_ahead_of_computing_a_sequence_anew() -> None:
    world = resident(World(ahead=True), "a")
    crossing = world.add(5, max_tokens=6, recompute_at=7)
    seen = []
    while world.scheduler.has_work:
        (plan, _) = world.under_way[0] if world.under_way else (world.begin_step(), None)
        ahead = world.begin_ahead()
        seen.append((planned(plan).get(crossing.id), planned(ahead).get(crossing.id)))
        world.end_step()
    assert seen == [(5, 1), (1, 1), (1, None), (8, 1), (1, 1), (1, None)]


def test_prompts_go_on_and_begin_ahead() -> None:
    world = resident(World(step_tokens=4), "a")
    scored = world.add(6, max_tokens=0, keep=True)
    world.begin_step()
    late = world.add(3, max_tokens=1)
    assert planned(world.begin_ahead()) == {scored.id: 2, late.id: 2}
    assert world.end_step() == []
    assert planned(world.begin_ahead()) == {late.id: 1}
    assert world.end_step() == [Finished(scored.id, None, "length")]
    assert [event.id for event in world.end_step()] == [late.id]


def test_no_more_run_than_can_have_a_token_in_each_step_though_one_is_ending() -> None:
    world, (_, goes_on) = under_way(1, 2, step_tokens=2)
    world.add(1, max_tokens=1)
    assert planned(world.begin_ahead()) == {goes_on.id: 1}
    world.run()


def test_loads_begin_ahead_with_or_without_chunks() -> None:
    world, (first, second) = under_way(1, 1)
    world.add(1, "b", 1)
    plan = world.begin_ahead()
    assert ([load.place for load in plan.loads], plan.chunks) == ([1], ())
    assert [event.id for event in world.end_step()] == [first.id, second.id]
    world.run()


def test_one_plan_and_no_more_may_be_under_way_when_the_next_is_made() -> None:
    world = resident(World(), "a")
    with pytest.raises(RuntimeError, match="0 plans have not been committed, not one"):
        world.scheduler.schedule_ahead(world.now)
    world.add(1, max_tokens=4)
    world.begin_step()
    ahead = world.begin_ahead()
    with pytest.raises(RuntimeError, match="2 plans have not been committed, not one"):
        world.scheduler.schedule_ahead(world.now)
    with pytest.raises(RuntimeError, match="not the plan to commit"):
        world.scheduler.commit(ahead, {"s1": 1}, world.now)
    world.run()
