"""Steps, blocks, preemption and what a sequence gets, by example."""

import pytest

from serve_app.scheduling.errors import DuplicateSequence, NeverFits
from serve_app.scheduling.events import Continued, Finished
from serve_app.scheduling.ledgers.blocks import BlockLedger
from serve_app.scheduling.ledgers.places import PlaceLedger
from serve_app.scheduling.plan import StepPlan
from serve_app.scheduling.scheduler import Scheduler
from serve_app.scheduling.sequence import Sequence
from tests.scheduling.fakes import World, alone, blocks_of


def resident(world: World, *models: str) -> World:
    """Let the models have places, and nothing else have happened."""
    for model in models:
        world.add(1, model, 1)
    world.run()
    return world


def planned(plan: StepPlan) -> dict[str, int]:
    return {chunk.sequence: len(chunk.tokens) for chunk in plan.chunks}


def test_a_load_begins_when_a_model_first_shows_up() -> None:
    world = World()
    world.add(3, "a")
    plan = world.begin_step()
    assert [(load.backbone, load.place) for load in plan.loads] == [("backbone of a", 0)]
    assert plan.chunks == ()
    assert world.end_step() == []


def test_a_long_prompt_is_computed_in_chunks_and_samples_once() -> None:
    world = resident(World(step_tokens=4), "a")
    sequence = world.add(10, max_tokens=2)
    seen = []
    for _ in range(3):
        (chunk,) = world.begin_step().chunks
        seen.append((chunk.start, len(chunk.tokens), chunk.samples, len(blocks_of(chunk))))
        events = world.end_step()
    assert seen == [(0, 4, False, 1), (4, 4, False, 2), (8, 2, True, 3)]
    assert events == [Continued(sequence.id, alone(sequence)[0][0])]


def test_everything_is_computed_once_more_where_the_known_tokens_pass_a_limit() -> None:
    world = resident(World(step_tokens=16, num_blocks=6), "a")
    crossing = world.add(5, max_tokens=9, recompute_at=8)
    beyond = world.add(10, max_tokens=3, recompute_at=8)
    seen: list[tuple[str, int, int, int]] = []
    while crossing.id in world.running or not seen:
        for chunk in world.begin_step().chunks:
            seen.append((chunk.sequence, chunk.start, len(chunk.tokens), chunk.forward_len))
        world.end_step()
    world.run()
    crossed = [part[1:] for part in seen if part[0] == crossing.id]
    assert (0, 9, 9) in crossed
    assert crossed[crossed.index((0, 9, 9)) + 1] == (9, 1, 9)
    assert {part[3] for part in seen if part[0] == beyond.id} == {10}
    assert world.generated[crossing.id] == alone(crossing)[0]


def test_decodes_go_first_and_prompts_fill_what_is_left() -> None:
    world = resident(World(step_tokens=8), "a")
    early = world.add(7, max_tokens=9)
    world.step()
    late = world.add(20, max_tokens=1)
    last = world.add(2, max_tokens=1)
    assert planned(world.begin_step()) == {early.id: 1, late.id: 7}
    world.end_step()
    world.step()
    assert planned(world.begin_step()) == {early.id: 1, late.id: 6, last.id: 1}
    world.end_step()
    world.run()


def test_a_prompt_without_an_answer_finishes_with_no_token() -> None:
    world = resident(World(step_tokens=4), "a")
    sequence = world.add(6, max_tokens=0, keep=True)
    chunks = [*world.begin_step().chunks]
    assert world.end_step() == []
    chunks += world.begin_step().chunks
    assert world.end_step() == [Finished(sequence.id, None, "length")]
    assert [(c.samples, c.keep_prompt_logits) for c in chunks] == [(False, True)] * 2


def test_a_stop_token_ends_a_sequence_and_is_its_last_token() -> None:
    world = resident(World(), "a")
    tokens, _ = alone(world.add(3, max_tokens=8))
    sequence = world.add([1, 2, 3], max_tokens=8, stop=tokens)
    sequence = world.add(world.sequences["s1"].prompt, max_tokens=8, stop=tokens[2:3])
    world.run()
    assert world.reasons[sequence.id] == "stop"
    assert world.generated[sequence.id] == tokens[: tokens.index(tokens[2]) + 1]


def test_stop_tokens_do_not_count_before_the_least_number_of_tokens() -> None:
    world = resident(World(), "a")
    sequence = world.add(3, max_tokens=9, stop=range(99), min_tokens=4)
    world.run()
    assert len(world.generated[sequence.id]) == 5
    assert world.reasons[sequence.id] == "stop"


def test_a_stop_token_at_the_last_place_is_a_stop() -> None:
    world = resident(World(), "a")
    sequence = world.add(3, max_tokens=3, stop=range(99), min_tokens=2)
    world.run()
    assert world.reasons[sequence.id] == "stop"


def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    world = World(num_blocks=4, block_size=4)
    with pytest.raises(NeverFits, match=r"'s0' needs 5 KV blocks of 4 tokens .* there are 4") as e:
        world.add(10, max_tokens=8)
    assert (e.value.needed, e.value.available) == (5, 4)
    assert not world.scheduler.has_work


def test_the_last_token_needs_no_block_so_that_an_exact_fit_runs() -> None:
    world = World(num_blocks=4, block_size=4)
    world.add(10, max_tokens=7)
    world.run()
    assert len(world.generated["s0"]) == 7


def test_an_id_in_use_is_refused_and_changes_nothing() -> None:
    world = World()
    first = world.add(3)
    again = Sequence(first.id, first.model, first.backbone, (1,), 1)
    with pytest.raises(DuplicateSequence, match="'s0' is waiting or running already"):
        world.scheduler.add(again, 0.0)
    world.scheduler.check()
    world.run()
    assert world.generated[first.id] == alone(first)[0]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "min_tokens", "message"),
    [((), 1, 0, "prompt is empty"), ((1,), -1, 0, "max_tokens -1"), ((1,), 1, -2, "min_tokens -2")],
)
def test_a_sequence_that_makes_no_sense_is_refused(
    prompt: tuple[int, ...], max_tokens: int, min_tokens: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Sequence("s", ("r", "m"), "b", prompt, max_tokens, min_tokens=min_tokens)


@pytest.mark.parametrize(
    ("step_tokens", "max_sequences", "wait"), [(0, 1, 1), (1, 0, 1), (1, 1, -1)]
)
def test_a_scheduler_without_room_is_refused(
    step_tokens: int, max_sequences: int, wait: float
) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Scheduler(
            [BlockLedger(1, 1)],
            PlaceLedger(1),
            step_tokens=step_tokens,
            max_sequences=max_sequences,
            max_model_wait_s=wait,
            max_batch_wait_s=1.0,
        )


def test_the_latest_arrived_is_preempted_and_loses_no_token() -> None:
    world = resident(World(num_blocks=6, block_size=2), "a")
    early = world.add(5, max_tokens=7)
    late = world.add(5, max_tokens=6)
    world.run()
    assert early.num_preemptions == 0
    assert late.num_preemptions == world.scheduler.num_preemptions == 1
    assert world.generated[late.id] == alone(late)[0]


def test_the_less_important_is_preempted_though_it_came_first() -> None:
    world = resident(World(num_blocks=6, block_size=2), "a")
    early = world.add(5, max_tokens=7)
    late = world.add(5, max_tokens=7, priority=-1)
    world.run()
    assert (early.num_preemptions > 0, late.num_preemptions) == (True, 0)


def test_a_prompt_takes_the_blocks_of_a_lower_rank_that_was_planned_already() -> None:
    world = resident(World(num_blocks=10, block_size=1, step_tokens=2), "a")
    decoding = world.add(1, max_tokens=9, priority=1)
    world.step()
    prompt = world.add(8, max_tokens=1)
    while not decoding.num_preemptions:
        plan = world.begin_step()
        world.end_step()
    assert planned(plan) == {prompt.id: 2}
    assert prompt.num_missing == 2
    world.run()


def test_who_is_last_in_rank_waits_with_what_it_has_and_nobody_is_admitted() -> None:
    world = resident(World(num_blocks=5, block_size=2), "a")
    early = world.add(4, max_tokens=3)
    late = world.add(4, max_tokens=5)
    world.step()
    waiting = world.add(1, max_tokens=1)
    assert planned(world.begin_step()) == {early.id: 1}
    assert (late.num_preemptions, len(blocks_of(late)), waiting.place) == (0, 2, None)
    world.end_step()
    world.run()
    assert late.num_preemptions == 0


def test_nobody_is_admitted_in_a_step_that_is_short_of_blocks() -> None:
    world = resident(World(num_blocks=6, block_size=2), "a")
    world.add(5, max_tokens=7)
    late = world.add(5, max_tokens=6)
    while not late.num_preemptions:
        newcomer = world.add(1, max_tokens=1, tenant="other") if late.num_missing == 1 else None
        world.step()
        if newcomer is not None and not late.num_preemptions:
            world.abort(newcomer.id)
    assert newcomer is not None
    assert (newcomer.place, newcomer.id in world.reasons) == (None, False)
    world.run()


def test_no_more_run_than_can_have_a_token_in_each_step() -> None:
    world = resident(World(step_tokens=2, max_sequences=3), "a")
    for _ in range(3):
        world.add(1, max_tokens=9)
    for _ in range(3):
        world.step()
    assert world.scheduler.num_running == 2
    world.run()


def test_prompt_logits_are_not_asked_for_again_after_a_preemption() -> None:
    world = resident(World(num_blocks=6, block_size=2, step_tokens=4), "a")
    world.add(5, max_tokens=7)
    late = world.add(5, max_tokens=6, keep=True)
    asked = []
    while world.scheduler.has_work:
        plan = world.begin_step()
        mine = [c for c in plan.chunks if c.sequence == late.id and c.keep_prompt_logits]
        asked += [position for c in mine for position in range(c.start, min(c.end, 5))]
        world.end_step()
    assert late.num_preemptions == 1
    assert asked == [0, 1, 2, 3, 4]


def test_a_sequence_aborted_between_plan_and_commit_is_passed_over() -> None:
    world = resident(World(), "a")
    gone, stays = world.add(3), world.add(3)
    world.begin_step()
    assert world.abort(gone.id)
    assert blocks_of(gone) == []
    assert [event.id for event in world.end_step()] == [stays.id]
    assert not world.abort(gone.id)
    world.run()


def test_an_id_used_again_between_plan_and_commit_is_another_sequence() -> None:
    world = resident(World(), "a")
    old = world.add(3)
    plan = world.begin_step()
    world.abort(old.id)
    new = Sequence(old.id, old.model, old.backbone, (1, 2), 2)
    world.scheduler.add(new, world.now)
    assert world.scheduler.commit(plan, {old.id: 5}, world.now) == []
    assert (new.tokens, new.num_computed) == ([1, 2], 0)


def test_a_plan_is_committed_once_and_before_the_next() -> None:
    world = resident(World(), "a")
    world.add(3)
    plan = world.begin_step()
    with pytest.raises(RuntimeError, match="has not been committed"):
        world.scheduler.schedule(world.now)
    with pytest.raises(ValueError, match=r"no token was sampled for \['s1'\]"):
        world.scheduler.commit(plan, {}, world.now)
    world.end_step()
    with pytest.raises(RuntimeError, match="committed already"):
        world.scheduler.commit(plan, {}, world.now)
    world.run()


def test_two_models_that_share_a_backbone_share_a_place() -> None:
    world = World(num_places=1)
    old = world.add(3, "a", backbone="same", release="r1")
    new = world.add(3, "a", backbone="same", release="r2")
    assert [load.backbone for load in world.begin_step().loads] == ["same"]
    world.end_step()
    world.finish_loads()
    plan = world.begin_step()
    assert {c.model for c in plan.chunks} == {old.model, new.model}
    assert {c.place for c in plan.chunks} == {0}
    world.end_step()
    world.run()
    assert world.places.num_loads == 1


def test_a_failed_load_gives_up_what_waited_for_it_and_nothing_else() -> None:
    world = World()
    lost = [world.add(3, "a"), world.add(3, "a", tenant="other")]
    kept = world.add(3, "b")
    world.step()
    assert world.fail_load(0) == [s.id for s in lost]
    assert world.places.empty() == 0
    world.run()
    assert list(world.reasons) == [kept.id]
    world.add(3, "a")
    world.run()


def test_counts_say_what_waits_and_runs_for_each_model() -> None:
    world = resident(World(max_sequences=1), "a")
    world.add(3, "a")
    world.add(3, "a", tenant="other")
    world.add(3, "b")
    world.step()
    scheduler = world.scheduler
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 2)
    assert scheduler.num_running_by_model() == {("r1", "a"): 1}
    assert scheduler.num_waiting_by_model() == {("r1", "a"): 1, ("r1", "b"): 1}
    assert [scheduler.count(("r1", m)) for m in "abc"] == [2, 1, 0]
    assert (scheduler.num_hits, scheduler.num_misses) == (2, 2)
    world.run()
    assert not scheduler.has_work


def test_a_backbone_is_dropped_when_nothing_needs_it() -> None:
    world = World()
    sequence = world.add(3, "a")
    drop = world.scheduler.drop_backbone
    world.step()
    assert not drop(sequence.backbone), "it is loading and waited for"
    world.finish_loads()
    world.step()
    assert not drop(sequence.backbone), "it is pinned"
    world.run()
    assert drop(sequence.backbone)
    assert world.places.resident == ()
    assert drop(sequence.backbone)
    world.scheduler.check()


def test_a_clock_that_goes_back_stands_still() -> None:
    world = World(num_places=1)
    world.now = 7.0
    world.add(3, "a")
    world.step()
    world.now = 2.0
    world.add(3, "b")
    assert world.scheduler.residency.wanted == {"backbone of b": 7.0}
    world.run()
