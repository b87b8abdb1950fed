"""The requests of an engine, and the running steps for them. Plans no step, loads nothing."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from serve_app.engine.counters import Counters
from serve_app.engine.request import Event, Failed, Logprob, PromptLogprobs, Request, Token
from serve_app.engine.run.runner import (
    LaunchedStep,
    Runner,
    RunningRequest,
    StepResult,
    StepsApart,
)
from serve_app.errors import EngineError, GrammarLost
from serve_app.grammar.following import Following
from serve_app.scheduling.events import Finished, SequenceEvent
from serve_app.scheduling.plan import StepPlan
from serve_app.scheduling.scheduler import Scheduler
from serve_app.scheduling.sequence import Sequence

logger = logging.getLogger(__name__)
MOST_BROKEN = 2
"""Requests of models that keep state are computed again after that many steps that broke, with no
token between."""


@dataclass(slots=True)
class _Active:
    """A request in the engine, and the log-probabilities of its prompt so far, by position.

    num_broken: how many steps of it broke since its last token, after which it was computed again.
    queued_s: its wait before anything was computed; num_cached: tokens of its prompt that were
    already computed. Both are set until its first token is reported.
    """

    request: Request
    sequence: Sequence
    running: RunningRequest
    prompt_due: bool
    prompt_logprobs: dict[int, Logprob] = field(default_factory=dict)
    began: bool = False
    queued_s: float | None = None
    num_cached: int = 0
    num_broken: int = 0


@dataclass(frozen=True, slots=True)
class _Flight:
    """A running step, and by id the requests for which its results count."""

    plan: StepPlan
    active: Mapping[str, _Active]
    began: float
    step: LaunchedStep | StepsApart


class Flights:
    """Steps are launched one after another, and finish in that order with events for requests."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        counters: Counters,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._counters = counters
        self._clock = clock
        self._active: dict[str, _Active] = {}
        self._followed: dict[str, Following] = {}
        self._flights: deque[_Flight] = deque()
        self._landed = 0.0
        self._events: list[Event] = []

    def __len__(self) -> int:
        """How many steps are running."""
        return len(self._flights)

    def __contains__(self, request: str) -> bool:
        return request in self._active

    def add(self, request: Request, sequence: Sequence, row: int) -> None:
        """A request and its sequence in the scheduler. row: of its model in the expert maps."""
        running = RunningRequest(
            request, row, sequence.tokens, sequence.prompt_len, sequence.num_inputs
        )
        due = request.prompt_logprobs is not None
        self._active[request.id] = _Active(request, sequence, running, due)
        if request.grammar is not None:
            self._followed[request.id] = Following(
                request.grammar, request.stop_token_ids, request.min_tokens
            )

    def drop(self, request: str) -> None:
        """Forget this request: none of its events follow."""
        self._active.pop(request, None)
        self._followed.pop(request, None)

    def fail(self, request: str, error: EngineError) -> None:
        """This request ends without an answer; the scheduler has forgotten its sequence."""
        self.drop(request)
        self._events.append(Failed(request, error))

    def take_events(self) -> list[Event]:
        """The events for requests since the last call."""
        events, self._events = self._events, []
        return events

    def launch(self, plan: StepPlan) -> None:
        """Start a step that computes something, after the last running one."""
        active = {chunk.sequence: self._active[chunk.sequence] for chunk in plan.chunks}
        for request in active.values():
            if not request.began:
                self._begin(request)
        running = [request.running for request in active.values()]
        after = self._flights[-1].step if self._flights else None
        began = self._clock()
        step: LaunchedStep | StepsApart
        try:
            step = self._runner.launch(plan, running, after, self._followed)
        except Exception as error:
            if len(plan.chunks) > 1:
                logger.warning("a step broke; its requests are computed one by one", exc_info=error)
            step, broken = self._runner.launch_apart(plan, running, after, self._followed)
            for name, why in broken.items():
                self._give_up({name: active[name]}, why)
            if self._runner.keeps_state:
                self._recompute({n: a for n, a in active.items() if n not in broken}, error)
                active = {}
        self._flights.append(_Flight(plan, active, began, step))

    def _recompute(self, active: Mapping[str, _Active], error: Exception) -> None:
        """Compute these requests from the start: a step that broke may have changed their state.

        One whose steps broke `MOST_BROKEN` times already since its last token is given up.
        """
        for request in active.values():
            request.num_broken += 1
        lost = {name: each for name, each in active.items() if each.num_broken > MOST_BROKEN}
        if lost:
            self._give_up(lost, error)
        self._scheduler.recompute(active.keys() - lost.keys())
        for index, flight in enumerate(self._flights):
            counted = {name: each for name, each in flight.active.items() if name not in active}
            self._flights[index] = replace(flight, active=counted)

    def _begin(self, active: _Active) -> None:
        sequence = active.sequence
        active.began, active.queued_s = True, self._clock() - sequence.arrival
        active.num_cached = sequence.num_found or 0
        self._counters.note_prefix(len(sequence.prompt), sequence.num_found)

    def land(self, take_reports: Callable[[], None]) -> None:
        """Wait for the oldest running step, and give its results to its requests.

        take_reports: called before its tokens count, as a load that it waited for may have failed.
        """
        flight = self._flights.popleft()
        result = StepResult()
        try:
            result = flight.step.collect()
        except Exception as error:  # noqa: BLE001 - others must go on
            self._give_up(flight.active, error)
        take_reports()
        now = self._clock()
        self._counters.note_step(now - max(flight.began, self._landed), result.seconds)
        self._landed = now
        for name, found in result.prompt_logprobs.items():
            if name in flight.active:
                flight.active[name].prompt_logprobs.update(found)
        over = self._follow(flight, result.sampled) if self._followed else ()
        events = self._scheduler.commit(flight.plan, result.sampled, now, over)
        committed = self._clock()
        for done in events:
            self._report(done, flight.active[done.id], result.logprobs.get(done.id))
        self._counters.committing_seconds += committed - now
        self._counters.messages_seconds += self._clock() - committed

    def _follow(self, flight: _Flight, sampled: Mapping[str, int]) -> list[str]:
        """Tells grammars what was sampled; those to whose answers nothing may be added.

        An answer that its grammar has lost fails before its token counts.
        """
        over = []
        for name, following in list(self._followed.items()):
            active = flight.active.get(name)
            if active is None or active is not self._active.get(name) or name not in sampled:
                continue
            following.take(active.sequence.num_generated, sampled[name])
            if following.lost is not None:
                self._scheduler.abort(name)
                self.fail(name, GrammarLost(f"request {name!r}: {following.lost}"))
            elif following.is_over:
                over.append(name)
        return over

    def _report(self, done: SequenceEvent, active: _Active, logprob: Logprob | None) -> None:
        """A request has one more token, or has ended. Results for its prompt come first."""
        active.num_broken = 0
        if active.prompt_due:
            active.prompt_due = False
            found = active.prompt_logprobs
            each = (found.get(position) for position in range(len(active.request.prompt)))
            self._events.append(PromptLogprobs(active.request.id, tuple(each)))
        if isinstance(done, Finished):
            finish = done.reason
            self.drop(done.id)
            token = -1 if done.token is None else done.token
        else:
            finish, token = None, done.token
        self._events.append(
            Token(done.id, token, logprob, finish, active.queued_s, active.num_cached)
        )
        if active.queued_s is not None:
            active.queued_s, active.num_cached = None, 0

    def give_up(self, error: Exception) -> None:
        """End all requests and forget all running steps: something outside of the model broke."""
        logger.error("the engine broke between steps; all requests are given up", exc_info=error)
        while self._flights:
            step = self._flights.popleft().step
            with contextlib.suppress(Exception):  # what it gives is lost, but it must have ended
                step.collect()
        self._scheduler.clear()
        failure = _failure(error)
        for name in list(self._active):
            self.fail(name, failure)

    def _give_up(self, active: Mapping[str, _Active], error: Exception) -> None:
        """End the requests of a step that failed, and leave the others as they are."""
        logger.error("a step broke; its requests are given up", exc_info=error)
        failure = _failure(error)
        for name, request in active.items():
            if self._active.get(name) is request:
                self._scheduler.abort(name)
                self.fail(name, failure)


def _failure(error: Exception) -> EngineError:
    failure = EngineError(f"the engine could not compute a step: {error}")
    failure.__cause__ = error
    return failure
