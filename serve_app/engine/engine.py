"""One engine on one device: scheduler, runner and what is loaded. Single-threaded, no Ray.

`loop.py` gives it a thread. Every method is called from that one thread; loading alone goes on
beside it.
"""

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from serve_app.engine.config import EngineConfig
from serve_app.engine.counters import Counters
from serve_app.engine.device.device import require_device, resolve_device
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.loading.supply import Supply
from serve_app.engine.memory import MemoryPlan, plan_memory
from serve_app.engine.model.facts import DTYPES, widest
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.request import Event, Failed, Logprob, PromptLogprobs, Request, Token
from serve_app.engine.run.captures import DecodeGraphs, GraphBackend
from serve_app.engine.run.cuda_graphs import graph_backend
from serve_app.engine.run.runner import LaunchedStep, Runner, RunningRequest, StepResult
from serve_app.engine.source import ReleaseSource
from serve_app.engine.stats import Stats, look
from serve_app.errors import (
    DuplicateRequest,
    EngineError,
    TooLong,
    UnknownRelease,
)
from serve_app.scheduling.blocks import BlockLedger
from serve_app.scheduling.errors import NeverFits
from serve_app.scheduling.events import Finished
from serve_app.scheduling.places import PlaceLedger
from serve_app.scheduling.plan import StepPlan
from serve_app.scheduling.prefix_cache import PrefixCache
from serve_app.scheduling.scheduler import Scheduler
from serve_app.scheduling.sequence import Sequence

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Active:
    """A request in the engine, and the log-probabilities of its prompt so far, by position.

    queued_s: its wait before anything was computed, from then until its first token is reported;
    num_cached: tokens of its prompt that were found computed, as long.
    """

    request: Request
    row: int
    prompt_logprobs: dict[int, Logprob]
    prompt_due: bool
    began: bool = False
    queued_s: float | None = None
    num_cached: int = 0


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step under way, and its requests by id. step: None where it could not be launched."""

    plan: StepPlan
    active: Mapping[str, _Active]
    began: float
    step: LaunchedStep | None


class Engine:
    """Serves all models of the loaded releases in the same steps."""

    def __init__(
        self,
        packed: PackedModel,
        memory: MemoryPlan,
        config: EngineConfig,
        *,
        secret: bytes | None,
        graphs: GraphBackend | None,
        clock: Callable[[], float],
        on_loaded: Callable[[], None],
    ) -> None:
        """See `open`. secret: of shared prefixes; None: none are shared.

        graphs: what records decode steps; None: nothing does.
        """
        self.memory = memory
        self.counters = Counters()
        self._clock = clock
        self._packed = packed
        self._graphs = None
        if graphs is not None:
            needs, most = memory.captured, memory.kept_bytes
            self._graphs = DecodeGraphs(packed, graphs, config.max_sequences, needs, most)
        self._runner = Runner(packed, graphs=self._graphs, clock=clock)
        self._blocks = BlockLedger(memory.num_blocks, memory.block_size)
        self._places = PlaceLedger(memory.num_places)
        self._scheduler = Scheduler(
            [self._blocks],
            self._places,
            step_tokens=config.step_tokens,
            max_sequences=config.max_sequences,
            max_model_wait_s=config.max_model_wait_s,
            cache=None if secret is None else PrefixCache(self._blocks, secret),
        )
        self._releases = PooledReleases(packed)
        self._supply = Supply(
            packed, memory, self._scheduler, self._releases, self.counters, on_loaded
        )
        self._active: dict[str, _Active] = {}
        # On CUDA, where the device need not wait for the host then.
        on_cuda = packed.device.type == "cuda"
        self._plan_ahead = on_cuda if config.plan_ahead is None else config.plan_ahead
        self._flights: deque[_Flight] = deque()
        self._landed = 0.0
        self._checked_steps = 0
        self._broken: str | None = None
        self.is_stepping = False
        """Whether the last step computed anything; if not, there is nothing to do but wait."""
        self._events: list[Event] = []

    @classmethod
    def open(
        cls,
        source: ReleaseSource,
        config: EngineConfig,
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        clock: Callable[[], float] = time.monotonic,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> "Engine":
        """An engine with room for a release, the release not yet loaded: see `stage`.

        random_bytes: as many as asked, for the secret that keeps tenants' prefixes apart.
        on_loaded: called from another thread when something in the background got done.
        Raises: DoesNotFit, Unsupported, ConfigError.
        """
        require_device(config.device)
        device = torch.device(resolve_device(config.device))
        memory = plan_memory(source, config)
        packed = PackedModel(
            widest(source.models), memory.sizes, dtype=DTYPES[memory.dtype], device=device
        )
        return cls(
            packed,
            memory,
            config,
            secret=random_bytes(32) if config.prefix_cache else None,
            graphs=graph_backend(device) if config.cuda_graphs else None,
            clock=clock,
            on_loaded=on_loaded,
        )

    @property
    def packed(self) -> PackedModel:
        """The tensors, and the forward over them: for those who measure."""
        return self._packed

    def fits_beside(self, source: ReleaseSource) -> bool:
        """Whether there is room for a release beside what is loaded."""
        return self._supply.fits_beside(source)

    def require_room_alone(self, source: ReleaseSource) -> None:
        """Raises: DoesNotFit for a release that would not fit even if nothing else were loaded."""
        self._supply.require_room_alone(source)

    def stage(self, source: ReleaseSource, on_done: Callable[[EngineError | None], None]) -> None:
        """Begin loading the parts of a release's experts beside the running work.

        `on_done(None)` says that requests may name it; `on_done(error)` that it was not loaded,
        and that nothing has changed. Both come from `step`, or at once.
        """
        self._supply.stage(source, on_done)

    def retire(self, release: str, on_done: Callable[[], None]) -> None:
        """Take no new requests for a release; free it when its last sequence has ended.

        Raises: UnknownRelease.
        """
        self._supply.retire(release, on_done)

    def submit(self, request: Request) -> None:
        """Queue a request; its events come from `step`.

        Raises, with nothing changed: UnknownRelease, UnknownModel, TooLong, DuplicateRequest.
        """
        if self._supply.is_retiring(request.release):
            raise UnknownRelease(f"release {request.release!r} is being retired")
        model = self._releases.model(request.release, request.model)
        if request.id in self._active:
            raise DuplicateRequest(f"request {request.id!r} is running already")
        prompt = len(request.prompt)
        if prompt + request.max_tokens > model.context_length:
            raise TooLong(
                f"model {request.model!r}: {prompt} prompt tokens and {request.max_tokens} more "
                f"exceed the context of {model.context_length}",
                limit=model.context_length,
                prompt_tokens=prompt,
                max_tokens=request.max_tokens,
            )
        sequence = Sequence(
            id=request.id,
            model=(request.release, request.model),
            backbone=model.backbone,
            prompt=request.prompt,
            max_tokens=request.max_tokens,
            tenant=request.tenant,
            weight=request.weight,
            priority=request.priority,
            arrival=self._clock(),
            stop_token_ids=request.stop_token_ids,
            min_tokens=request.min_tokens,
            keep_prompt_logits=request.prompt_logprobs is not None,
            recompute_at=self._packed.recompute_length(model.row),
            by_length=self._packed.is_by_length(model.row),
        )
        try:
            self._scheduler.add(sequence, self._clock())
        except NeverFits as error:
            raise TooLong(
                f"request {request.id!r}: {error}",
                limit=self.memory.kv_tokens,
                prompt_tokens=prompt,
                max_tokens=request.max_tokens,
            ) from error
        due = request.prompt_logprobs is not None
        self._active[request.id] = _Active(request, model.row, {}, due)

    def abort(self, request: str) -> bool:
        """End a request and free what it holds. False where there is none of that id."""
        self._active.pop(request, None)
        return self._scheduler.abort(request)

    def context_length(self, release: str, model: str) -> int:
        """The most tokens that a sequence of the model may have.

        Raises: UnknownRelease, UnknownModel.
        """
        return min(self._releases.model(release, model).context_length, self.memory.kv_tokens)

    @property
    def has_work(self) -> bool:
        """Whether a request waits or runs, a step is under way, or a release is being loaded."""
        return self._scheduler.has_work or bool(self._flights) or self._supply.is_staging

    def step(self) -> list[Event]:
        """Do what can be done now; no events and no wait when nothing can."""
        self._take_reports()
        self._supply.begin_stagings()
        if not self._flights and self._launch(self._scheduler.schedule(self._clock())):
            self._launch(self._scheduler.schedule(self._clock()))  # with what arrives from now on
        if self._plan_ahead and len(self._flights) == 1:
            self._launch(self._scheduler.schedule_ahead(self._clock()))
        self.is_stepping = bool(self._flights)
        if self._flights:
            self._land(self._flights.popleft())
        self._supply.drop_retired()
        events, self._events = self._events, []
        return events

    def check(self) -> None:
        """See whether what is counted adds up, if steps were made since that was last seen.

        What does not is logged, and told by `stats` from then on: what is served may be wrong.
        """
        if self._checked_steps == self.counters.num_steps or self._broken is not None:
            return
        self._checked_steps = self.counters.num_steps
        try:
            self._scheduler.check()
            self._supply.check()
        except AssertionError as error:
            self._broken = str(error)
            logger.error("the engine's counts do not add up: %s", error)

    def close(self) -> None:
        """Stop loading. The engine is of no use afterwards."""
        self._supply.close()

    def stats(self) -> Stats:
        """A look at what is going on."""
        return look(
            self._scheduler,
            self._blocks,
            self._releases,
            self._packed,
            self.counters,
            0 if self._graphs is None else self._graphs.num_bytes,
            self._supply.host_bytes,
            self._broken,
            self._clock(),
        )

    def _take_reports(self) -> None:
        """Learn what was loaded, and tell the requests that a failed load costs."""
        for lost in self._supply.take_reports():
            self._active.pop(lost.request, None)
            self._events.append(Failed(lost.request, lost.error))

    def _launch(self, plan: StepPlan) -> bool:
        """Begin a plan's loads and its step, after the step that is under way if one is.

        -> whether there is no step, but a backbone arrives that one might use.
        """
        arrives = self._supply.begin_loads(plan.loads)
        if not plan.chunks:
            return arrives
        active = {chunk.sequence: self._active[chunk.sequence] for chunk in plan.chunks}
        running = {}
        for name, request in active.items():
            sequence = self._scheduler.get(name)
            assert sequence is not None
            running[name] = RunningRequest(request.request, request.row, sequence.tokens)
            if not request.began:
                request.began, request.queued_s = True, self._clock() - sequence.arrival
                request.num_cached = sequence.num_found or 0
                self.counters.note_prefix(len(sequence.prompt), sequence.num_found)
        after = self._flights[-1].step if self._flights else None
        began, step = self._clock(), None
        try:
            step = self._runner.launch(plan, running, after)
        except Exception as error:  # noqa: BLE001 - others must go on
            self._give_up(active, error)
        self._flights.append(_Flight(plan, active, began, step))
        return False

    def _land(self, flight: _Flight) -> None:
        """Wait for a step, the oldest under way, and tell its requests what it gave."""
        result = StepResult()
        try:
            if flight.step is not None:
                result = flight.step.collect()
        except Exception as error:  # noqa: BLE001 - others must go on
            self._give_up(flight.active, error)
        self._take_reports()  # before its tokens count: a load it waited for may have failed
        now = self._clock()
        self.counters.note_step(now - max(flight.began, self._landed), result.forward_s)
        self._landed = now
        for name, found in result.prompt_logprobs.items():
            flight.active[name].prompt_logprobs.update(found)
        for done in self._scheduler.commit(flight.plan, result.sampled, now):
            active = flight.active[done.id]
            self._report_prompt(active)
            queued_s, active.queued_s = active.queued_s, None
            num_cached, active.num_cached = active.num_cached, 0
            finish = None
            if isinstance(done, Finished):
                finish = done.reason
                del self._active[done.id]
            token = -1 if done.token is None else done.token
            logprob = result.logprobs.get(done.id)
            self._events.append(Token(done.id, token, logprob, finish, queued_s, num_cached))

    def _give_up(self, active: Mapping[str, _Active], error: Exception) -> None:
        """End the requests of a step that broke, and leave the others as they are."""
        logger.error("a step broke; its requests are given up", exc_info=error)
        failure = EngineError(f"the engine could not compute a step: {error}")
        failure.__cause__ = error
        for name, request in active.items():
            if self._active.get(name) is request:
                self.abort(name)
                self._events.append(Failed(name, failure))

    def _report_prompt(self, active: _Active) -> None:
        """Once, before a request's first token: its prompt's log-probabilities if wanted."""
        if not active.prompt_due:
            return
        active.prompt_due = False
        found = active.prompt_logprobs
        each = (found.get(position) for position in range(len(active.request.prompt)))
        self._events.append(PromptLogprobs(active.request.id, tuple(each)))
