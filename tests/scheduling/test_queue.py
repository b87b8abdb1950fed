"""Fairness between queues."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.scheduling.fairness.accounts import Queue
from serve_app.scheduling.fairness.queue import ANSWER_PRICE, CACHED_PRICE, PROMPT_PRICE, FairQueues
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
    return {queue.tenant: queue.account.served for queue in queues}


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
    queue = queues.next(everything)
    assert queue is not None
    assert queue.waiting == [first, second]
    queues.admit(first)
    assert queue.served == queue.account.served == 5.0


def test_idle_queues_are_forgotten_once_it_makes_no_difference() -> None:
    queues = FairQueues()
    one = waiting(queues, "x", 5)
    queues.admit(one)
    queues.leave(one)
    queues.admit(waiting(queues, "y", 9))
    waiting(queues, "z", 1)
    assert served(queues) == {"y": 14.0, "z": 14.0}


def test_a_tenant_that_asks_ten_models_gets_one_tenants_share() -> None:
    queues = FairQueues()
    for number in range(100):
        waiting(queues, "wide", 5, model=f"m{number % 10}", number=number)
    for number in range(100, 150):
        waiting(queues, "narrow", 5, model="m0", number=number)
    for _ in range(60):
        queue = queues.next(everything)
        assert queue is not None
        queues.admit(queue.head)
    by_tenant = served(queues)
    assert by_tenant["wide"] == by_tenant["narrow"] == 150.0
    assert {q.model[1]: q.served for q in queues if q.tenant == "wide"} == {
        f"m{number}": 15.0 for number in range(10)
    }


def test_what_was_already_computed_costs_less() -> None:
    queues = FairQueues()
    sequence = waiting(queues, "x", 10)
    sequence.num_found = 8
    queues.admit(sequence)
    assert served(queues) == {"x": pytest.approx(2 * PROMPT_PRICE + 8 * CACHED_PRICE)}


def test_a_token_of_an_answer_is_charged_to_tenant_and_model() -> None:
    queues = FairQueues()
    sequence = waiting(queues, "x", 1, weight=2.0)
    queues.admit(sequence)
    queues.charge_answer(sequence)
    (queue,) = queues
    assert queue.served == queue.account.served == (PROMPT_PRICE + ANSWER_PRICE) / 2


def test_a_model_that_a_tenant_asks_anew_does_not_catch_up_on_its_others() -> None:
    queues = FairQueues()
    queues.admit(waiting(queues, "x", 100, model="m1"))
    waiting(queues, "x", 1, model="m1", number=1)
    waiting(queues, "x", 1, model="m2", number=2)
    assert {q.model[1]: q.served for q in queues} == {"m1": 100.0, "m2": 100.0}
    assert served(queues) == {"x": 100.0}


def test_what_waits_for_a_backbone_is_known_by_its_first_number_and_its_least_served() -> None:
    queues = FairQueues()
    assert (queues.first_waiting("m"), queues.least_served("m")) == (None, None)
    one = waiting(queues, "x", 7, number=3)
    waiting(queues, "y", 1, number=5)
    assert (queues.first_waiting("m"), queues.num_waiting("m")) == (3, 2)
    queues.admit(one)
    waiting(queues, "x", 1, number=6)
    assert (queues.first_waiting("m"), queues.least_served("m")) == (5, 0.0)


def position(queue: Queue) -> tuple[float, int, int, float, int]:
    """By tenant, then by priority, by model, by arrival."""
    account, head = queue.account, queue.head
    return account.served, account.since, head.priority, queue.served, head.number


TENANTS = [f"t{number}" for number in range(5)]
MODELS = [f"m{number}" for number in range(4)]


@settings(REPEATABLE, max_examples=200)
@given(st.data())
def test_whose_turn_it_is_is_found_as_if_all_queues_were_looked_at(data: st.DataObject) -> None:
    """Arrivals, admissions, tokens, preemptions and ends in any order, of any rank."""
    queues, running = FairQueues(), list[Sequence]()
    for number in range(data.draw(st.integers(1, 40))):
        kind = data.draw(st.sampled_from(["add", "add", "admit", "token", "back", "end", "remove"]))
        open_now = {m for m in MODELS if data.draw(st.booleans())}
        all_waiting = [s for q in queues for s in q.waiting]
        if kind == "add":
            tenant, model = data.draw(st.sampled_from(TENANTS)), data.draw(st.sampled_from(MODELS))
            length, rank = data.draw(st.integers(1, 9)), data.draw(st.integers(-2, 2))
            made = Sequence(
                str(number), ("r", model), model, (1,) * length, 1, tenant, priority=rank
            )
            made.number = number
            queues.add(made, open_now.__contains__)
        elif kind == "admit" and (queue := queues.next(open_now.__contains__)):
            running.append(queue.head)
            queues.admit(queue.head)
        elif kind == "token" and running:
            queues.charge_answer(data.draw(st.sampled_from(running)))
        elif kind in ("back", "end") and running:
            gone = running.pop(data.draw(st.integers(0, len(running) - 1)))
            if kind == "end":
                queues.leave(gone)
            else:
                gone.num_preemptions += 1
                queues.put_back(gone)
        elif kind == "remove" and all_waiting:
            queues.remove(data.draw(st.sampled_from(all_waiting)))
        ready = [q for q in queues if q.waiting and q.backbone in open_now]
        assert queues.next(open_now.__contains__) is min(ready, key=position, default=None)
        for model in MODELS:
            numbers = [s.number for q in queues for s in q.waiting if q.backbone == model]
            assert queues.num_waiting(model) == len(numbers)
            assert queues.first_waiting(model) == min(numbers, default=None)


@settings(REPEATABLE, max_examples=20)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=20, max_size=20),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.booleans(),
)
def test_two_backlogged_tenants_are_served_alike(
    lengths: list[tuple[int, int]], weight: float, ahead: bool
) -> None:
    """The bound that queue.py states, in virtual tokens."""
    world = World(num_blocks=12, block_size=2, max_sequences=4, ahead=ahead)
    world.add(1, max_tokens=1)
    world.run()
    for prompt, answer in lengths:
        for _ in range(3):
            world.add(prompt, max_tokens=answer, tenant="greedy", weight=weight)
        world.add(answer, max_tokens=prompt, tenant="modest")
    most = ANSWER_PRICE * (world.blocks.num_units * world.blocks.block_size + 4)
    while min(backlog(world, tenant) for tenant in ("greedy", "modest")):
        world.step()
        difference = service(world, "greedy") / weight - service(world, "modest")
        assert abs(difference) <= 2 * most
    world.run()


def backlog(world: World, tenant: str) -> int:
    mine = [s for s in world.sequences.values() if s.tenant == tenant]
    return sum(s.place is None and s.id not in world.reasons for s in mine)


def service(world: World, tenant: str) -> float:
    """The price of prompts that were begun, and of answers; nothing is cached."""
    mine = [s for s in world.sequences.values() if s.tenant == tenant]
    begun = [s for s in mine if s.place is not None or s.num_preemptions or s.id in world.reasons]
    answered = sum(s.num_generated for s in mine)
    return PROMPT_PRICE * sum(len(s.prompt) for s in begun) + ANSWER_PRICE * answered


def test_a_smaller_priority_goes_first_among_a_tenants_own() -> None:
    queues = FairQueues()
    for number, priority in enumerate([0, 5, -5]):
        sequence = Sequence(
            str(number), ("r", "m"), "m", (1,), 1, priority=priority, arrival=float(number)
        )
        sequence.number = number
        queues.add(sequence, everything)
    (queue,) = queues
    assert [sequence.id for sequence in queue.waiting] == ["2", "0", "1"]
