"""A strict engine without tensors: answers are known beforehand, and every misuse is an error."""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from consolidation.release import Aliases, Canary, Golden
from serve_app.config import ServeConfig
from serve_app.engine.backlog import Backlog
from serve_app.engine.counters import Counters
from serve_app.engine.loading.outages import Outage
from serve_app.engine.request import Event, Failed, Logprob, PromptLogprobs, Request, Token
from serve_app.engine.residents import Place, Residence
from serve_app.engine.source import BackboneBlobLike, LayerLike
from serve_app.engine.stats import Stats
from serve_app.errors import (
    DoesNotFit,
    DuplicateRequest,
    EngineError,
    InUse,
    TooLong,
    TooManyPinned,
    Unavailable,
    UnknownModel,
    UnknownRelease,
)
from serve_app.scheduling.sequence import ModelKey
from serve_app.serving.replica.dependencies import Loop, OpenedRelease, Parts, ReplicaSource
from serve_app.serving.replica.verifying import TENANT as VERIFYING
from serve_app.text.process.text_client import TextClient
from serve_app.text.process.text_process import Hear
from serve_app.text.tokenizer import Tokenizer
from tests.text.process.inline import InlineProcess
from tests.text.tokenizers import byte_level

CONTEXT = 128
VOCABULARY = 400
EOS = 2
_INNER = byte_level()
TOKENIZER = Tokenizer(_INNER)


@dataclass(frozen=True)
class FakeModel:
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    backbone: tuple[BackboneBlobLike, ...] = ()
    expert_map: tuple[tuple[int, ...], ...] = ()
    residual_map: tuple[tuple[tuple[int, ...], ...], ...] = ()
    golden: Golden | None = None


@dataclass(frozen=True)
class FakeSource:
    """A release without tensors: to read one is a mistake."""

    id: str
    models: Mapping[str, FakeModel]
    dtype: str = "float32"
    layers: tuple[LayerLike, ...] = ()
    reads_at_once: int = 1

    def read_slot(self, layer: int, slot: int) -> NoReturn:
        raise AssertionError(f"{self.id}: slot {slot} of layer {layer} is read")

    def read_residual(self, layer: int, residual: int) -> NoReturn:
        raise AssertionError(f"{self.id}: residual {residual} of layer {layer} is read")

    def read_backbone(self, model: str) -> NoReturn:
        raise AssertionError(f"{self.id}: the backbone of {model} is read")


def source(release: str, *models: str, **generation: Any) -> FakeSource:
    config = {"model_type": "mixtral", "vocab_size": VOCABULARY, "eos_token_id": EOS}
    return FakeSource(release, {name: FakeModel(config, generation) for name in models})


def with_encoders(made: "World") -> "World":
    """The same, of encoder–decoder models, whose prompts have no log-probabilities."""
    for release, found in made.registry.releases.items():
        models = {
            name: replace(model, config={**model.config, "is_encoder_decoder": True})
            for name, model in found.models.items()
        }
        made.registry.releases[release] = replace(found, models=models)
    return made


@dataclass
class _Running:
    request: Request
    on_event: Callable[[Event], None]
    answer: deque[int]
    num: int = 0
    told_prompt: bool = False


@dataclass
class FakeLoop:
    """Answers a prompt with `answers[model]`, its last token again and again if that ends.

    Of every prompt it says that one token was found computed.

    The replica's own requests, which verify a release, are answered at once and not `seen`.
    no_numbers: models that answer them with NaN.

    Steps on a thread of its own, or by `step` when made with `manual`. Every running sequence
    holds one page; `pages` are those that are free.
    """

    first: ReplicaSource
    answers: dict[str, list[int]] = field(default_factory=dict)
    manual: bool = False
    kv_tokens: int = CONTEXT
    room: int = 2
    pages: int = 64
    num_places: int = 3
    context: int = CONTEXT
    longest: int = 1 << 30

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._releases: dict[str, ReplicaSource] = {self.first.id: self.first}
        self._running: dict[str, _Running] = {}
        self._retiring: dict[str, Future[None]] = {}
        self._wake = threading.Event()
        self._closed = False
        self.fail_staging: str | None = None
        self.too_large: str | None = None
        self.fail_requests = False
        self.broken: str | None = None
        self.unavailable: dict[ModelKey, Outage] = {}
        self.no_numbers: set[str] = set()
        self.dtype = "float32"
        self.seen: list[Request] = []
        self.aborted: list[str] = []
        self.staged: list[str] = [self.first.id]
        self.retired: list[str] = []
        self.resident: set[ModelKey] = set()
        self.pinned: set[ModelKey] = set()
        if not self.manual:
            threading.Thread(target=self._run, daemon=True).start()

    def submit_all(
        self, requests: Sequence[Request], on_event: Callable[[Event], None]
    ) -> "Future[None]":
        done: Future[None] = Future()
        with self._lock:
            try:
                for request in requests:
                    self._check(request)
            except EngineError as error:
                done.set_exception(error)
                return done
            for request in requests:
                if request.tenant == VERIFYING:
                    self._verify(request, on_event)
                    continue
                self.seen.append(request)
                answer = deque(self.answers.get(request.model, [10]))
                self._running[request.id] = _Running(request, on_event, answer)
                self.pages -= 1
        self._wake.set()
        done.set_result(None)
        return done

    def _verify(self, request: Request, on_event: Callable[[Event], None]) -> None:
        if request.prompt_logprobs is not None:
            on_event(PromptLogprobs(request.id, _prompt_logprobs(request)))
        logprob = math.nan if request.model in self.no_numbers else -0.5
        on_event(Token(request.id, 3, Logprob(3, logprob, ()), "length"))

    def _check(self, request: Request) -> None:
        if request.release not in self._releases or request.release in self._retiring:
            raise UnknownRelease(request.release)
        if request.model not in self._releases[request.release].models:
            raise UnknownModel(request.model)
        outage = self.unavailable.get((request.release, request.model))
        if outage is not None:
            raise Unavailable(outage.reason, retry_after_s=outage.retry_at)
        if request.id in self._running:
            raise DuplicateRequest(request.id)
        assert request.prompt
        assert request.max_tokens >= 0
        assert request.min_tokens <= request.max_tokens
        assert all(0 <= token < VOCABULARY for token in request.prompt)
        assert request.max_tokens or request.prompt_logprobs is not None
        config = self._releases[request.release].models[request.model].config
        assert request.prompt_logprobs is None or not config.get("is_encoder_decoder")
        if len(request.prompt) + request.max_tokens > self.kv_tokens:
            raise TooLong(
                "too long",
                limit=self.kv_tokens,
                prompt_tokens=len(request.prompt),
                max_tokens=request.max_tokens,
            )

    def abort(self, request_id: str) -> None:
        with self._lock:
            if self._running.pop(request_id, None) is not None:
                self.aborted.append(request_id)
                self.pages += 1
            self._finish_retiring()

    def context_length(self, release: str, model: str) -> int:
        assert model in self._releases[release].models
        return self.context

    def longest_prompt(self, release: str, model: str) -> int:
        return min(self.longest, self.context_length(release, model))

    def fits_beside(self, source: ReplicaSource) -> bool:
        return len(self._releases) < self.room

    def require_room_alone(self, source: ReplicaSource) -> None:
        if source.id == self.too_large:
            raise DoesNotFit("too large, even alone", needed=2, available=1)

    def _do(self, act: Callable[[], None]) -> "Future[None]":
        done: Future[None] = Future()
        try:
            with self._lock:
                act()
            done.set_result(None)
        except EngineError as error:
            done.set_exception(error)
        return done

    def load(self, model: ModelKey) -> "Future[None]":
        return self._do(lambda: self.resident.add(self._known(model)))

    def unload(self, model: ModelKey) -> "Future[None]":
        def act() -> None:
            if self._known(model) in self.pinned:
                raise InUse("it is pinned")
            self.resident.discard(model)

        return self._do(act)

    def pin(self, models: Collection[ModelKey]) -> "Future[None]":
        def act() -> None:
            if len(models) >= self.num_places:
                raise TooManyPinned(f"{len(models)} do not fit in {self.num_places} places")
            self.pinned = {self._known(model) for model in models}
            self.resident |= self.pinned

        return self._do(act)

    def _known(self, model: ModelKey) -> ModelKey:
        assert model[1] in self._releases[model[0]].models
        return model

    def residence(self) -> "Future[Residence]":
        done: Future[Residence] = Future()
        held = [
            Place("resident", (key,), num_bytes=7, is_pinned=key in self.pinned)
            for key in sorted(self.resident)
        ]
        empty = [Place("empty")] * (self.num_places - len(held))
        done.set_result(Residence((*held, *empty), wanted=(), num_switches=0))
        return done

    def stage(self, source: ReplicaSource, *, may_lack: bool) -> "Future[None]":
        done: Future[None] = Future()
        with self._lock:
            assert source.id not in self._releases, "staged twice"
            if self.fail_staging == source.id:
                done.set_exception(EngineError("a slot is damaged"))
                return done
            if len(self._releases) >= self.room:
                done.set_exception(EngineError("does not fit"))
                return done
            self._releases[source.id] = source
            self.staged.append(source.id)
        done.set_result(None)
        return done

    def retire(self, release: str) -> "Future[None]":
        with self._lock:
            assert release in self._releases, "retired without being there"
            assert release not in self._retiring, "retired twice"
            done: Future[None] = Future()
            self._retiring[release] = done
            self._finish_retiring()
        return done

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def stats(self) -> Stats:
        with self._lock:
            keys = [(r.request.release, r.request.model) for r in self._running.values()]
            tenants = Counter(r.request.tenant for r in self._running.values())
            by_tenant = {name: Backlog(num_running=num) for name, num in tenants.items()}
            return Stats(
                heartbeat=time.monotonic(),
                num_running=len(keys),
                num_waiting=0,
                num_running_by_model=Counter(keys),
                num_waiting_by_model={},
                by_tenant=by_tenant,
                releases=tuple(self._releases),
                resident=tuple(sorted(self.resident)),
                num_places=self.num_places,
                kv_blocks=64,
                kv_blocks_used=64 - self.pages,
                input_blocks=0,
                input_blocks_used=0,
                state_rows=0,
                state_rows_used=0,
                num_preemptions=0,
                backbone_hits=0,
                backbone_misses=0,
                backbone_evictions=0,
                unique_experts=0,
                logical_experts=0,
                pool_bytes=5000,
                backbones_bytes=0,
                kv_bytes=0,
                state_bytes=0,
                attention_bytes=0,
                captures_bytes=0,
                host_bytes=0,
                unavailable=self.unavailable,
                broken=self.broken,
                counters=Counters(num_steps=3),
            )

    def step(self) -> None:
        """One token for everyone."""
        with self._lock:
            for each in list(self._running.values()):
                self._one(each)
            self._finish_retiring()

    def _one(self, each: _Running) -> None:
        request = each.request
        if self.fail_requests:
            self._end(each, Failed(request.id, EngineError("a step broke")))
            return
        if request.prompt_logprobs is not None and not each.told_prompt:
            each.told_prompt = True
            each.on_event(PromptLogprobs(request.id, _prompt_logprobs(request)))
        if request.max_tokens == 0:
            self._end(each, Token(request.id, -1, None, "length"))
            return
        token = each.answer.popleft() if len(each.answer) > 1 else each.answer[0]
        each.num += 1
        logprobs = request.sampling.logprobs
        logprob = None if logprobs is None else _logprob(token, each.num, logprobs)
        finish = None
        if token in request.stop_token_ids and each.num > request.min_tokens:
            finish = "stop"
        elif each.num == request.max_tokens:
            finish = "length"
        queued_s = 0.0 if each.num == 1 else None
        event = Token(request.id, token, logprob, finish, queued_s, num_cached=int(each.num == 1))
        if finish is None:
            each.on_event(event)
        else:
            self._end(each, event)

    def _end(self, each: _Running, event: Event) -> None:
        del self._running[each.request.id]
        self.pages += 1
        each.on_event(event)

    def _finish_retiring(self) -> None:
        for release, done in list(self._retiring.items()):
            if not any(each.request.release == release for each in self._running.values()):
                del self._releases[release]
                del self._retiring[release]
                self.retired.append(release)
                done.set_result(None)

    def _run(self) -> None:
        while not self._closed:
            self.step()
            if not self._running:
                self._wake.wait(0.05)
                self._wake.clear()
            else:
                time.sleep(0.0005)


def _logprob(token: int, position: int, top: int) -> Logprob:
    """Likeliest is the token itself, then those after it."""
    others = tuple(((token + i) % VOCABULARY, -0.5 * position - i) for i in range(top))
    return Logprob(token, -0.5 * position, others)


def _prompt_logprobs(request: Request) -> tuple[Logprob | None, ...]:
    top = request.prompt_logprobs or 0
    return (
        None,
        *(_logprob(token, i, top) for i, token in enumerate(request.prompt[1:], start=1)),
    )


@dataclass
class FakeRegistry:
    """Releases by id, channels by name, and what is wrong with them. tokenizers: of some models."""

    releases: dict[str, FakeSource] = field(default_factory=dict)
    channels: dict[str, str] = field(default_factory=dict)
    canaries: dict[str, Canary] = field(default_factory=dict)
    names: dict[str, Aliases] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    broken: bool = False
    broken_beside: bool = False
    tokenizer: Any = _INNER
    tokenizers: dict[str, Any] = field(default_factory=dict)

    def channel(self, name: str) -> str | None:
        if self.broken:
            raise OSError("the registry is away")
        return self.channels.get(name)

    def canary(self, channel: str) -> Canary | None:
        if self.broken_beside:
            raise OSError("the canary is not JSON")
        return self.canaries.get(channel)

    def aliases(self, channel: str) -> Aliases | None:
        if self.broken_beside:
            raise OSError("the aliases are not JSON")
        return self.names.get(channel)

    def open(self, release: str) -> OpenedRelease:
        if release in self.damaged or release not in self.releases:
            raise EngineError(f"blob of {release} is damaged")
        found = self.releases[release]
        return OpenedRelease(found, self._write_tokenizer, created=1234)

    def _write_tokenizer(self, model: str, directory: Path) -> None:
        found = self.tokenizers.get(model, self.tokenizer)
        found.save_pretrained(directory)


@dataclass
class World:
    """A registry, and parts that open a FakeLoop on it. texts: the text processes so far.

    no_numbers, unavailable: of its loops.
    """

    registry: FakeRegistry
    answers: dict[str, list[int]] = field(default_factory=dict)
    manual: bool = False
    room: int = 2
    kv_tokens: int = CONTEXT
    context: int = CONTEXT
    longest: int = 1 << 30
    loops: list[FakeLoop] = field(default_factory=list)
    texts: list[InlineProcess] = field(default_factory=list)
    no_numbers: set[str] = field(default_factory=set)
    unavailable: dict[ModelKey, Outage] = field(default_factory=dict)

    @property
    def loop(self) -> FakeLoop:
        return self.loops[-1]

    def parts(self) -> Parts:
        registry = self.registry
        return Parts(
            channel=registry.channel,
            canary=registry.canary,
            aliases=registry.aliases,
            open_release=registry.open,
            open_engine=self._open,
            text=TextClient(self._start_text),
        )

    async def _start_text(self, directory: str, hear: Hear) -> InlineProcess:
        self.texts.append(InlineProcess(hear))
        return self.texts[-1]

    def _open(self, first: ReplicaSource) -> Loop:
        loop = FakeLoop(first, self.answers, self.manual, room=self.room, kv_tokens=self.kv_tokens)
        loop.context, loop.longest = self.context, self.longest
        loop.no_numbers = self.no_numbers
        loop.unavailable = self.unavailable
        self.loops.append(loop)
        return loop


def world(*models: str, answers: dict[str, list[int]] | None = None, **options: Any) -> World:
    """One release `r1`, to which the channel `stable` points."""
    registry = FakeRegistry({"r1": source("r1", *(models or ("a", "b")))}, {"stable": "r1"})
    return World(registry, answers or {}, **options)


CONFIG = ServeConfig(family="fam", poll_s=0.02)
