"""Anything at any moment: arrivals, aborts, loads that end in any order or fail, preemptions."""

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from serve_app.service_class import ServiceClass
from tests.scheduling.fakes import REPEATABLE, World

MODELS = "abcde"


@dataclass
class Drain:
    """An overdue backbone, and who must be gone before it has to have a place."""

    since: float
    needed: int
    running: dict[str, set[str]]

    def drained(self) -> int:
        return sum(not ids for ids in self.running.values())


class Simulation(RuleBasedStateMachine):
    """Each sequence gets, in the end, exactly the tokens it would get alone."""

    world: World

    @initialize(
        num_blocks=st.integers(6, 14),
        block_size=st.integers(1, 3),
        num_places=st.integers(1, 3),
        step_tokens=st.integers(1, 9),
        max_sequences=st.integers(1, 6),
        wait=st.sampled_from([0.0, 3.0, 12.0]),
        batch_wait=st.sampled_from([0.0, 9.0, 1000.0]),
        share=st.sampled_from([{}, {"secret": b"secret"}, {"num_states": 2}]),
    )
    def begin(
        self,
        num_blocks: int,
        block_size: int,
        num_places: int,
        step_tokens: int,
        max_sequences: int,
        wait: float,
        batch_wait: float,
        share: dict[str, Any],
    ) -> None:
        self.world = World(
            num_blocks=num_blocks,
            block_size=block_size,
            num_places=num_places,
            step_tokens=step_tokens,
            max_sequences=max_sequences,
            max_model_wait_s=wait,
            max_batch_wait_s=batch_wait,
            **share,
        )
        self.given_up: set[str] = set()
        self.resident_since: dict[str, float] = {}
        self.wanted: set[str] = set()
        self.has_admitted: set[str] = set()
        self.drains: dict[str, Drain] = {}

    @rule(
        first=st.integers(0, 1),
        prompt=st.integers(1, 8),
        model=st.sampled_from(MODELS),
        answer=st.integers(0, 8),
        release=st.sampled_from(["r1", "r2"]),
        tenant=st.sampled_from(["light", "heavy"]),
        priority=st.sampled_from([0, 0, 0, 1]),
        service_class=st.sampled_from(ServiceClass),
        stop=st.sets(st.integers(0, 12), max_size=3),
        min_tokens=st.integers(0, 3),
        keep=st.booleans(),
        recompute_at=st.one_of(st.none(), st.integers(0, 12)),
        at_once=st.booleans(),
    )
    def add(
        self,
        first: int,
        prompt: int,
        model: str,
        answer: int,
        release: str,
        tenant: str,
        priority: int,
        service_class: ServiceClass,
        stop: set[int],
        min_tokens: int,
        keep: bool,
        recompute_at: int | None,
        at_once: bool,
    ) -> None:
        room = self.world.blocks.num_units * self.world.blocks.block_size
        prompt = min(prompt, room, self.world.scheduler.longest_at_once if at_once else room)
        self.world.add(
            [first + at for at in range(prompt)],
            model,
            min(answer, room - prompt + 1),
            backbone=model if model != "e" else f"{model} of {release}",
            release=release,
            tenant=tenant,
            weight=3.0 if tenant == "heavy" else 1.0,
            priority=priority,
            service_class=service_class,
            stop=sorted(stop),
            min_tokens=min_tokens,
            keep=keep,
            recompute_at=recompute_at,
            at_once=at_once,
        )

    @rule(model=st.sampled_from(MODELS), keeps=st.booleans())
    def operate(self, model: str, keeps: bool) -> None:
        """An operator has a backbone loaded, or keeps it alone, if there is a place for others."""
        known = sorted(set(self.world.runner.backbones.values()))
        if model not in known:
            return
        if keeps and self.world.places.num_places > 1:
            self.world.scheduler.residency.keep({model})
        else:
            self.world.scheduler.residency.ask(model, self.world.now)
        self.world.scheduler.check()

    @precondition(lambda self: not self.world.under_way)
    @rule()
    def plan(self) -> None:
        self._before_plan()
        self.world.begin_step()
        self._after_plan()

    @precondition(lambda self: self.world.can_plan_ahead)
    @rule()
    def plan_ahead(self) -> None:
        self._before_plan()
        goes_on = self.world.scheduler._planner.goes_on()
        self.world.begin_ahead()
        if goes_on:
            self._after_plan()

    @precondition(lambda self: self.world.under_way)
    @rule()
    def commit(self) -> None:
        self.world.end_step()

    @precondition(lambda self: not self.world.under_way)
    @rule(count=st.integers(1, 6), ahead=st.booleans())
    def steps(self, count: int, ahead: bool) -> None:
        for _ in range(count):
            self.step(ahead)

    def step(self, ahead: bool) -> None:
        if not self.world.under_way:
            self.plan()
        if ahead and self.world.can_plan_ahead:
            self.plan_ahead()
        self.commit()

    @precondition(lambda self: self.world.runner.copying)
    @rule(index=st.integers(0, 9))
    def let_in(self, index: int) -> None:
        self.world.let_in(index)

    @precondition(lambda self: self.world.runner.copying)
    @rule(index=st.integers(0, 9))
    def finish_load(self, index: int) -> None:
        self.world.finish_load(index)

    @precondition(lambda self: self.world.runner.copying)
    @rule(index=st.integers(0, 9))
    def fail_load(self, index: int) -> None:
        self.given_up.update(self.world.fail_load(index))

    @precondition(lambda self: self.world.sequences)
    @rule(index=st.integers(0, 99))
    def abort(self, index: int) -> None:
        sequence_id = list(self.world.sequences)[index % len(self.world.sequences)]
        if self.world.abort(sequence_id):
            self.given_up.add(sequence_id)

    @rule(model=st.sampled_from(MODELS))
    def drop(self, model: str) -> None:
        if self.world.scheduler.drop_backbone(model):
            assert self.world.places.place_of(model) is None

    @rule(model=st.sampled_from(MODELS))
    def prefetch(self, model: str) -> None:
        if model in self.world.runner.backbones.values():
            self.world.prefetch_backbone(model)

    @rule(release=st.sampled_from(["r1", "r2"]))
    def retire(self, release: str) -> None:
        if not any(self.world.scheduler.count((release, model)) for model in MODELS):
            self.world.scheduler.forget(release)
            self.world.scheduler.check()

    @rule(elapsed=st.integers(1, 5))
    def wait(self, elapsed: int) -> None:
        self.world.now += elapsed

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        steps = 0
        while self.world.scheduler.has_work or self.world.under_way:
            self.step(ahead=steps % 5 > 0)
            if steps % 3 == 0 and self.world.runner.copying:
                self.world.finish_load(steps)
            steps += 1
            assert steps < 5_000, "somebody starves"
        ended = set(self.world.reasons) | self.given_up
        assert ended == set(self.world.sequences)
        assert self.world.num_used == 0

    def _before_plan(self) -> None:
        """Whoever was to be gone and has ended or been preempted since, is gone.

        What batch waits for too long becomes wanted before anything is planned.
        """
        self.world.scheduler._advance_clock(self.world.now)
        self.world.scheduler._promote()
        self.wanted = set(self.world.scheduler.residency.wanted)
        tenures = self.world.scheduler.residency._tenures
        self.has_admitted = {b for b, tenure in tenures.items() if tenure.has_admitted}
        for drain in self.drains.values():
            for ids in drain.running.values():
                ids &= self.world.running

    def _after_plan(self) -> None:
        """The bound that residency.py states, step by step."""
        world, now = self.world, self.world.now
        residents = world.places.resident
        self.resident_since = {b: self.resident_since.get(b, now) for b in residents}
        overdue = [
            b
            for b, since in world.scheduler.residency.wanted.items()
            if b in self.wanted and now - since >= world.max_model_wait_s
        ]
        draining = world.scheduler.residency.draining
        assert len(draining) <= len(overdue)
        for backbone, drain in self.drains.items():
            if backbone in overdue and world.scheduler.residency.wanted[backbone] == drain.since:
                assert drain.drained() < drain.needed, f"{backbone} should have a place"
        self.drains = {
            b: drain
            for b, drain in self.drains.items()
            if b in overdue and world.scheduler.residency.wanted[b] == drain.since
        }
        for ahead, backbone in enumerate(overdue):
            if backbone not in self.drains and len(draining) > ahead:
                running = {b: self._running_on(b) for b in draining[: ahead + 1]}
                since = world.scheduler.residency.wanted[backbone]
                self.drains[backbone] = Drain(since, ahead + 1, running)
        if overdue and len(draining) < len(overdue):
            for backbone in set(residents) - set(draining):
                assert self._is_protected(backbone), f"{backbone} should make room"

    def _running_on(self, backbone: str) -> set[str]:
        sequences = self.world.sequences
        return {i for i in self.world.running if sequences[i].backbone == backbone}

    def _is_protected(self, backbone: str) -> bool:
        """Kept; or waited for, and resident for less than the longest wait or not admitted to."""
        is_young = self.world.now - self.resident_since[backbone] < self.world.max_model_wait_s
        is_kept = backbone in self.world.scheduler.residency._kept
        return is_kept or is_young or backbone not in self.has_admitted


# Histories shrink slowly; the first failing one is short enough to read.
Simulation.TestCase.settings = settings(
    REPEATABLE, max_examples=100, stateful_step_count=40, phases=[Phase.explicit, Phase.generate]
)
TestSimulation = Simulation.TestCase


@pytest.mark.parametrize("seed", range(40))
def test_a_long_history_under_load_ends_with_the_right_tokens(seed: int) -> None:
    """The same acts, drawn so that blocks and places are short most of the time."""
    rng = Random(seed)
    simulation = Simulation()
    simulation.begin(
        num_blocks=rng.randint(6, 20),
        block_size=rng.randint(1, 3),
        num_places=rng.randint(1, 3),
        step_tokens=rng.randint(2, 12),
        max_sequences=rng.randint(2, 6),
        wait=rng.choice([0.0, 5.0, 20.0]),
        batch_wait=rng.choice([0.0, 20.0, 1000.0]),
        share=rng.choice([{}, {"secret": b"secret"}, {"num_states": rng.randint(1, 4)}]),
    )
    acts = ["add", "abort", "finish", "fail", "drop", "let_in", "prefetch", *["step"] * 8]
    for _ in range(400):
        act = rng.choices(acts, [4.0, 0.4, 5.0, 0.1, 0.5, 3.0, 0.3, *[2.0] * 8])[0]
        perform(simulation, act, rng)
    simulation.teardown()


def perform(simulation: Simulation, act: str, rng: Random) -> None:
    world = simulation.world
    if act == "add" and world.scheduler.num_waiting < 12:
        simulation.add(
            first=rng.randrange(2),
            prompt=rng.randint(1, 12),
            model=rng.choice(MODELS),
            answer=rng.randint(0, 14),
            release=rng.choice(["r1", "r2"]),
            tenant=rng.choice(["light", "heavy"]),
            priority=rng.choice([0, 0, 0, 1]),
            service_class=rng.choice(list(ServiceClass)),
            stop={rng.randrange(13)} if rng.random() < 0.3 else set(),
            min_tokens=rng.randint(0, 3),
            keep=rng.random() < 0.3,
            recompute_at=rng.randint(0, 20) if rng.random() < 0.2 else None,
            at_once=rng.random() < 0.4,
        )
    elif act == "abort" and world.sequences:
        simulation.abort(index=len(world.sequences) - 1 - rng.randrange(4))
    elif act in ("drop", "prefetch"):
        getattr(simulation, act)(model=rng.choice(MODELS))
    elif act == "let_in" and world.runner.copying:
        simulation.let_in(index=rng.randrange(9))
    elif act in ("finish", "fail") and world.runner.copying:
        getattr(simulation, f"{act}_load")(index=rng.randrange(9))
    elif act == "step" and not world.under_way:
        simulation.plan()
    elif act == "step" and world.can_plan_ahead and rng.random() < 0.6:
        simulation.plan_ahead()
    elif act == "step":
        simulation.commit()
