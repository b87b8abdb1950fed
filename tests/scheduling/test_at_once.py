"""A prompt that must be computed at once is, whatever else runs, and its turn comes."""

import pytest

from serve_app.scheduling.errors import PromptTooLong
from serve_app.scheduling.plan import StepPlan
from tests.scheduling.fakes import World, alone
from tests.scheduling.test_scheduler import planned, resident


def lengths_of(plan: StepPlan, sequence: str) -> list[int]:
    return [len(chunk.tokens) for chunk in plan.chunks if chunk.sequence == sequence]


def test_a_prompt_waits_for_a_step_with_room_for_all_of_it_and_nobody_begins_meanwhile() -> None:
    world = resident(World(step_tokens=16, max_sequences=4), "a")
    long = world.add(24, max_tokens=2)
    whole = world.add(12, max_tokens=2, at_once=True)
    late = world.add(1, max_tokens=2)
    seen = []
    for _ in range(3):
        seen.append(planned(world.begin_step()))
        world.end_step()
    assert seen == [{long.id: 16}, {long.id: 8}, {long.id: 1, whole.id: 12, late.id: 1}]


def test_after_a_preemption_the_prompt_is_computed_at_once_and_its_answer_token_by_token() -> None:
    """As `generate()` has computed them, so the whole may be longer than a step."""
    world = resident(World(num_blocks=6, block_size=4, step_tokens=8, max_sequences=2), "a")
    first = world.add(6, max_tokens=12)
    second = world.add(6, max_tokens=12, at_once=True)
    seen = []
    while world.scheduler.has_work:
        plan = world.begin_step()
        seen += lengths_of(plan, second.id)
        world.end_step()
    assert world.scheduler.num_preemptions == second.num_preemptions == 1
    again = seen.index(6, 1)
    assert set(seen[1:again]) == set(seen[again + 1 :]) == {1}
    assert len(seen) == again + 12 > 13
    assert [world.generated[s.id] for s in (first, second)] == [
        alone(s)[0] for s in (first, second)
    ]


def test_the_longest_prompt_begins_though_others_decode_and_shorter_prompts_keep_coming() -> None:
    world = resident(World(num_blocks=200, step_tokens=12, max_sequences=4), "a")
    assert world.scheduler.longest_at_once == 8
    for _ in range(3):
        world.add(2, max_tokens=100)
    world.step()
    longest = world.add(8, max_tokens=1, at_once=True)
    for _ in range(2):
        world.add(9, max_tokens=100)
        world.step()
    assert world.reasons[longest.id] == "length"


def test_a_longer_one_is_refused_with_the_limit_and_changes_nothing() -> None:
    world = World(step_tokens=12, max_sequences=4)
    with pytest.raises(PromptTooLong, match=r"'s0' has a prompt of 9 tokens.*there is room for 8"):
        world.add(9, at_once=True)
    assert not world.scheduler.has_work
    world.add(9)


@pytest.mark.parametrize(("step_tokens", "longest"), [(5, 1), (4, 1), (2, 1), (7, 3)])
def test_where_a_step_has_no_tokens_but_for_answers_a_prompt_of_one_is_served(
    step_tokens: int, longest: int
) -> None:
    world = World(step_tokens=step_tokens, max_sequences=4)
    assert world.scheduler.longest_at_once == longest
    for _ in range(9):
        world.add(longest, max_tokens=6, at_once=True)
    world.run(limit=100)


def test_a_prompt_that_is_computed_once_more_waits_for_a_step_with_room_for_all_of_it() -> None:
    world = resident(World(step_tokens=8, max_sequences=2), "a")
    again = world.add(6, max_tokens=6, recompute_at=8, at_once=True)
    for _ in range(2):
        world.step()
    before = world.add(13, max_tokens=1, priority=-1)
    seen = []
    while world.scheduler.has_work:
        seen.append(planned(world.begin_step()))
        world.end_step()
    assert seen[:3] == [{again.id: 1, before.id: 7}, {before.id: 6}, {again.id: 6}]
    assert {len(step) for step in seen[3:]} == {1}
