"""One engine on one device: scheduler, runner and what is loaded. Single-threaded, no Ray.

`loop.py` gives it a thread, and calls every method from it. Only loading runs in other threads.
"""

import logging
import secrets
import time
from collections.abc import Callable

import torch

from serve_app.engine.config import EngineConfig
from serve_app.engine.counters import Counters
from serve_app.engine.device.device import require_device, resolve_device
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.loading.supply import Supply
from serve_app.engine.memory import plan_memory
from serve_app.engine.memory_plan import MemoryPlan
from serve_app.engine.model.facts import DTYPES, anatomy_of
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.request import Event, Request
from serve_app.engine.residents import Residents
from serve_app.engine.run.captures import DecodeGraphs, GraphBackend
from serve_app.engine.run.cuda_graphs import graph_backend
from serve_app.engine.run.flights import Flights
from serve_app.engine.run.runner import Runner
from serve_app.engine.source import ReleaseSource
from serve_app.engine.stats import Stats, look
from serve_app.engine.submission import sequence_of, too_long
from serve_app.errors import (
    DeadlineMissed,
    DuplicateRequest,
    EngineError,
    Unavailable,
    UnknownRelease,
)
from serve_app.scheduling.errors import NeverFits, PromptTooLong
from serve_app.scheduling.ledgers.blocks import BlockLedger
from serve_app.scheduling.ledgers.input_blocks import InputLedger
from serve_app.scheduling.ledgers.places import PlaceLedger
from serve_app.scheduling.ledgers.state_rows import StateLedger
from serve_app.scheduling.plan import StepPlan
from serve_app.scheduling.prefix_cache import PrefixCache
from serve_app.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)


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
        """See `open`. secret: for shared prefixes; None: nothing is shared.

        graphs: records decode steps; None: nothing does.
        """
        self.memory = memory
        self.counters = Counters()
        self._clock = clock
        self._packed = packed
        self._graphs = None
        if graphs is not None:
            needs, most = memory.captured, memory.kept_bytes
            self._graphs = DecodeGraphs(packed, graphs, config.max_sequences, needs, most)
        runner = Runner(packed, graphs=self._graphs, clock=clock)
        self._blocks = BlockLedger(memory.num_blocks, memory.block_size)
        self._places = PlaceLedger(memory.num_places)
        self._state_rows = StateLedger(memory.state_rows) if memory.state_rows else None
        self._inputs = None
        if memory.input_blocks:
            self._inputs = InputLedger(memory.input_blocks, memory.block_size)
        self._scheduler = Scheduler(
            [each for each in (self._blocks, self._state_rows, self._inputs) if each is not None],
            self._places,
            step_tokens=config.step_tokens,
            max_sequences=config.max_sequences,
            max_model_wait_s=config.max_model_wait_s,
            min_residency_s=config.min_residency_s or 0.0,
            max_batch_wait_s=config.max_batch_wait_s,
            cache=self._prefix_cache(secret),
        )
        if packed.prompt_at_once:
            # The input of an encoder comes with the decoder's first token.
            longest = self._scheduler.longest_at_once - (self._inputs is not None)
            logger.info("one step computes each prompt, of at most %d tokens", longest)
        self._releases = PooledReleases(packed)
        self._supply = Supply(
            packed, memory, self._scheduler, self._releases, self.counters, on_loaded, clock
        )
        self.residents = Residents(self._scheduler, self._releases, self._supply, clock)
        self._flights = Flights(self._scheduler, runner, self.counters, clock=clock)
        # On CUDA, so that the device need not wait for the host.
        on_cuda = packed.device.type == "cuda"
        self._plan_ahead = on_cuda if config.plan_ahead is None else config.plan_ahead
        self._checked_steps = 0
        self._broken: str | None = None
        self.is_stepping = False
        """Whether the last step computed anything; if not, the caller can only wait."""

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
        """An engine with room for a release, which is not loaded yet: see `stage`.

        random_bytes: gives that many, for the secret that keeps tenants' prefixes apart.
        on_loaded: called from another thread when background work is done.
        Raises: DoesNotFit, Unsupported, ConfigError.
        """
        require_device(config.device)
        device = torch.device(resolve_device(config.device))
        anatomy = anatomy_of(source, config)
        memory = plan_memory(source, config, anatomy)
        packed = PackedModel(
            anatomy,
            memory.sizes,
            dtype=DTYPES[memory.dtype],
            device=device,
            uses_int8=config.int8_activations,
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

    def _prefix_cache(self, secret: bytes | None) -> PrefixCache | None:
        """None too where sequences need more than blocks have, to go on from shared ones."""
        if secret is None or self._state_rows is not None or self._inputs is not None:
            return None
        return PrefixCache(self._blocks, secret)

    @property
    def packed(self) -> PackedModel:
        """The tensors and the forward pass over them, for benchmarks."""
        return self._packed

    def fits_beside(self, source: ReleaseSource) -> bool:
        """Whether there is room for a release next to what is loaded."""
        return self._supply.fits_beside(source)

    def require_room_alone(self, source: ReleaseSource) -> None:
        """Raises: DoesNotFit for a release that would not fit even if nothing else were loaded."""
        self._supply.require_room_alone(source)

    def stage(
        self,
        source: ReleaseSource,
        on_done: Callable[[EngineError | None], None],
        *,
        may_lack: bool = False,
    ) -> None:
        """Start loading the parts of a release's experts while requests run.

        Calls `on_done(None)` when requests may name it, or `on_done(error)` if it was not loaded
        and nothing has changed: from `step`, or at once.
        may_lack: whether models whose backbones cannot be read may be missing. They are refused
        until their files are right.
        """
        self._supply.stage(source, on_done, may_lack=may_lack)

    def retire(self, release: str, on_done: Callable[[], None]) -> None:
        """Take no new requests for a release; free it when its last sequence has ended.

        Raises: UnknownRelease.
        """
        self._supply.retire(release, on_done)

    def submit(self, request: Request) -> None:
        """Queue a request; its events come from `step`.

        Raises, with nothing changed: UnknownRelease, UnknownModel, Unavailable, TooLong,
        Unsupported, DuplicateRequest.
        """
        if self._supply.is_retiring(request.release):
            raise UnknownRelease(f"release {request.release!r} is being retired")
        model = self._releases.model(request.release, request.model)
        outage = self._supply.outages.of(model.backbone)
        if outage is not None:
            wait_s = self._supply.outages.wait_s(model.backbone)
            raise Unavailable(outage.reason, retry_after_s=wait_s)
        if request.id in self._flights:
            raise DuplicateRequest(f"request {request.id!r} is running already")
        now = self._clock()
        sequence = sequence_of(request, model, self._packed, now)
        try:
            self._scheduler.add(sequence, now)
        except (NeverFits, PromptTooLong) as error:
            raise too_long(request, model, error, self.memory.kv_tokens) from error
        self._flights.add(request, sequence, model.row)

    def abort(self, request: str) -> bool:
        """End a request and free what it holds. False if there is none with that id."""
        self._flights.drop(request)
        return self._scheduler.abort(request)

    def context_length(self, release: str, model: str) -> int:
        """The most tokens that a sequence of the model may have.

        Raises: UnknownRelease, UnknownModel.
        """
        return min(self._releases.model(release, model).context_length, self.memory.kv_tokens)

    def longest_prompt(self, release: str, model: str) -> int:
        """The most tokens that a prompt for the model may have.

        Raises: UnknownRelease, UnknownModel.
        """
        context = self.context_length(release, model)
        if not self._packed.prompt_at_once:
            return context
        beginning = self._releases.model(release, model).beginning
        return min(context, self._scheduler.longest_at_once - len(beginning))

    @property
    def has_work(self) -> bool:
        """Whether a request waits or runs, a step is running, or a release is being loaded."""
        return self._scheduler.has_work or bool(self._flights) or self._supply.is_staging

    def step(self) -> list[Event]:
        """Do what can be done now. If there is nothing, returns no events and does not wait."""
        self._take_reports()
        self._supply.begin_stagings()
        self._supply.check_outages()
        self._expire()
        if not self._flights and self._launch(self._plan(self._scheduler.schedule)):
            # with everything that arrives from now on
            self._launch(self._plan(self._scheduler.schedule))
        if self._plan_ahead and len(self._flights) == 1:
            self._launch(self._plan(self._scheduler.schedule_ahead))
        self.is_stepping = bool(self._flights)
        if self._flights:
            self._flights.land(self._take_reports)
        self._supply.drop_retired()
        return self._flights.take_events()

    def give_up(self, error: Exception) -> list[Event]:
        """End all requests, after `step` has raised something that belongs to none of them.

        -> their events. Raises: AssertionError if counts do not agree: then do not go on.
        """
        self._flights.give_up(error)
        self._scheduler.check()
        self._supply.check()
        return self._flights.take_events()

    def check(self) -> None:
        """Check that the engine's counts agree, if there were steps since the last check.

        If they do not, logs it and reports it in `stats` from then on: answers may be wrong.
        """
        if self._checked_steps == self.counters.num_steps or self._broken is not None:
            return
        self._checked_steps = self.counters.num_steps
        try:
            self._scheduler.check()
            self._supply.check()
        except Exception as error:  # noqa: BLE001 - whatever a check raises, counts are wrong
            self._broken = str(error) or type(error).__name__
            logger.error("the engine's counts do not add up: %s", error)

    def close(self) -> None:
        """Stop loading. The engine cannot be used afterwards."""
        self._supply.close()

    def stats(self) -> Stats:
        """The current state, for metrics."""
        return look(
            self._scheduler,
            self._blocks,
            self._state_rows,
            self._inputs,
            self._releases,
            self._packed,
            self.counters,
            0 if self._graphs is None else self._graphs.num_bytes,
            self._supply.host_bytes,
            self._supply.outages,
            self._broken,
            self._clock(),
        )

    def _take_reports(self) -> None:
        """Take in what was loaded, and fail the requests of a failed load."""
        for lost in self._supply.take_reports():
            self._flights.fail(lost.request, lost.error)

    def _expire(self) -> None:
        for request in self._scheduler.expire(self._clock()):
            self._flights.fail(request, DeadlineMissed(f"request {request!r}: its time is up"))

    def _plan(self, schedule: Callable[[float], StepPlan]) -> StepPlan:
        now = self._clock()
        plan = schedule(now)
        self.counters.planning_seconds += self._clock() - now
        return plan

    def _launch(self, plan: StepPlan) -> bool:
        """Start a plan's loads and its step, after the running step if there is one.

        -> whether there is no step, but a backbone is arriving that one could use.
        """
        arrives = self._supply.begin_loads(plan.loads)
        if plan.chunks:
            self._flights.launch(plan)
        return arrives and not plan.chunks
