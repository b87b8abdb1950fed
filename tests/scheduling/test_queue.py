"""Fairness between queues."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.scheduling.queue import FairQueues
from serve_app.scheduling.sequence import Sequence
from tests.scheduling.fakes import REPEATABLE, World


def everything(_: str) -> bool:
    return True


def waiting(
    queues: FairQueues,
    tenant: str,
    prompt: int,
    *,
    model: str = "m",
    number: int = 0,
    weight: float = 1.0,
) -> Sequence:
    sequence = Sequence(f"{tenant}{number}", ("r", model), model, (1,) * prompt, 1, tenant, weight)
    sequence.number = number
    queues.add(sequence, everything)
    return sequence


def served(queues: FairQueues) -> dict[str, float]:
    return {queue.tenant: queue.served for queue in queues}


def test_the_least_served_queue_is_next() -> None:
    queues = FairQueues()
    first = waiting(queues, "x", 10)
    waiting(queues, "x", 1, number=1)
    waiting(queues, "y", 1, number=2)
    queues.admit(first)
    queue = queues.next(everything)
    assert queue is not None
    assert queue.tenant == "y"
    assert queues.next(lambda backbone: backbone == "other") is None


def test_a_weight_makes_tokens_cheaper() -> None:
    queues = FairQueues()
    for sequence in [waiting(queues, "x", 8, weight=4.0), waiting(queues, "y", 8)]:
        queues.admit(sequence)
    assert served(queues) == {"x": 2.0, "y": 8.0}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"sequence 's': weight \S+ must be positive"):
        Sequence("s", ("r", "m"), "b", (1,), 1, weight=weight)


def test_idle_time_is_not_saved_up() -> None:
    queues = FairQueues()
    queues.admit(waiting(queues, "x", 100))
    waiting(queues, "x", 1, number=1)
    waiting(queues, "y", 1, number=2)
    assert served(queues) == {"x": 100.0, "y": 100.0}


def test_after_a_pause_of_all_the_last_one_sets_the_level() -> None:
    queues = FairQueues()
    queues.admit(waiting(queues, "x", 100))
    waiting(queues, "y", 1)
    assert served(queues) == {"x": 100.0, "y": 100.0}


def test_newcomers_are_not_lifted_to_a_queue_that_waits_for_its_model() -> None:
    queues = FairQueues()
    waiting(queues, "stuck", 1, model="far")
    queues.admit(waiting(queues, "x", 50))
    waiting(queues, "x", 1, number=1)
    late = Sequence("late", ("r", "m"), "m", (1,), 1, "y")
    queues.add(late, lambda backbone: backbone == "m")
    assert served(queues) == {"stuck": 0.0, "x": 50.0, "y": 50.0}


def test_a_preempted_sequence_is_charged_once_and_goes_first_again() -> None:
    queues = FairQueues()
    first = waiting(queues, "x", 5)
    second = waiting(queues, "x", 5, number=1)
    queues.admit(first)
    first.num_preemptions += 1
    queues.put_back(first)
    (queue,) = queues.waiting("m")
    assert queue.waiting == [first, second]
    queues.admit(first)
    assert queue.served == 5.0


def test_idle_queues_are_forgotten_once_it_makes_no_difference() -> None:
    queues = FairQueues()
    one = waiting(queues, "x", 5)
    queues.admit(one)
    queues.leave(one)
    queues.admit(waiting(queues, "y", 9))
    waiting(queues, "z", 1)
    assert served(queues) == {"y": 14.0, "z": 14.0}


@settings(REPEATABLE, max_examples=20)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=20, max_size=20),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.booleans(),
)
def test_two_backlogged_tenants_are_served_alike(
    lengths: list[tuple[int, int]], weight: float, ahead: bool
) -> None:
    """The bound of the paper: twice the most that can be in one batch, in virtual tokens."""
    world = World(num_blocks=12, block_size=2, max_sequences=4, ahead=ahead)
    world.add(1, max_tokens=1)
    world.run()
    for prompt, answer in lengths:
        for _ in range(3):
            world.add(prompt, max_tokens=answer, tenant="greedy", weight=weight)
        world.add(answer, max_tokens=prompt, tenant="modest")
    most = world.blocks.num_units * world.blocks.block_size + 4
    while min(backlog(world, tenant) for tenant in ("greedy", "modest")):
        world.step()
        difference = service(world, "greedy") / weight - service(world, "modest")
        assert abs(difference) <= 2 * most
    world.run()


def backlog(world: World, tenant: str) -> int:
    mine = [s for s in world.sequences.values() if s.tenant == tenant]
    return sum(s.place is None and s.id not in world.reasons for s in mine)


def service(world: World, tenant: str) -> int:
    """Tokens of prompts that were begun, and of answers."""
    mine = [s for s in world.sequences.values() if s.tenant == tenant]
    begun = [s for s in mine if s.place is not None or s.num_preemptions or s.id in world.reasons]
    return sum(len(s.prompt) for s in begun) + sum(s.num_generated for s in mine)
