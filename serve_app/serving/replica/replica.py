"""The engine deployment's class: text in, text out, one release after another. Plain: no Ray."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.request import Request
from serve_app.errors import EngineError, EngineStopped
from serve_app.protocol.errors import (
    ProtocolError,
    bad_request,
    internal,
    loading,
    no_such_model,
    overloaded,
)
from serve_app.protocol.messages import (
    DetokenizeJob,
    ErrorItem,
    Item,
    Job,
    ModelCard,
    Models,
    Status,
    Text,
    TokenizeJob,
    Tokens,
)
from serve_app.serving.replica.counting import Metrics
from serve_app.serving.replica.dependencies import Parts
from serve_app.serving.replica.follow import Follower
from serve_app.serving.replica.generation import Generation
from serve_app.serving.replica.mailbox import Post
from serve_app.serving.replica.metrics import engine_figures
from serve_app.serving.replica.prepare import ServedModel, encode_prompts, requests_of
from serve_app.serving.replica.served_releases import HeldRelease, ServedReleases
from serve_app.serving.replica.snapshot import Snapshot
from serve_app.serving.transport.carrier import Opening, Parcel
from serve_app.serving.transport.sender import Sender
from serve_app.text.errors import BadVariable, TextError

_log = logging.getLogger(__name__)
_LONG_TEXT = 20_000
"""Longer prompts, in characters, are encoded on a thread, so that streams do not stop."""


class EngineReplica:
    """Serves the current release of one family, and follows where its target points.

    Implements `EngineClient` itself, so tests and programs can use it without Ray. Plain dicts go
    in and out; a client's mistake comes back as an `ErrorItem`.
    """

    def __init__(
        self,
        config: ServeConfig,
        parts: Parts,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        self._config = config
        self._parts = parts
        self._clock = clock
        self._draw_seed = draw_seed
        self._metrics = Metrics()
        self._post = Post()
        self._sender = Sender(self.generate)
        self._releases = ServedReleases(parts)
        self._follower = Follower(
            parts.channel,
            self._releases.take_up,
            lambda: self._releases.serving,
            poll_s=config.poll_s,
            clock=clock,
        )
        self._following: asyncio.Task[None] | None = None
        self._open_choices = 0
        self._stopped = False

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Sets the channel or release to serve and returns at once; loads in the background.

        Raises pydantic's ValidationError for anything else, with nothing changed.
        """
        self._follower.aim(UserConfig.model_validate(user_config))
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follower.run())

    async def generate(self, job: Job) -> AsyncGenerator[list[Item], None]:
        """See `EngineClient`. Closing it aborts the job in the engine."""
        begun = self._clock()
        try:
            async with aclosing(self._answer(job, begun)) as items:
                async for batch in items:
                    yield batch
        except ProtocolError as error:
            self._metrics.refused(error.code)
            self._stopped = self._stopped or isinstance(error.__cause__, EngineStopped)
            if error.is_fault:
                _log.error("job %s failed: %s", job["id"], error.__cause__ or error)
            yield [error.to_item()]
        except EngineError:
            _log.exception("job %s failed", job["id"])
            failed = internal()
            self._metrics.refused(failed.code)
            yield [failed.to_item()]

    async def send(self, job: Job, ingress: str) -> AsyncGenerator[Opening | Parcel, None]:
        """`generate`, for an ingress that reads its jobs together: see `Sender`."""
        async with aclosing(self._sender.send(job, ingress)) as messages:
            async for message in messages:
                yield message

    async def abort(self, job: str) -> None:
        """Aborts a job of `send`, if it is here."""
        self._sender.abort(job)

    async def _answer(self, job: Job, begun: float) -> AsyncGenerator[list[Item], None]:
        with self._admitted(job):
            async with self._releases.holding() as held:
                if held is None:
                    raise loading("no release is being served yet")
                release, loop = held
                model = _model(release, job["model"])
                requests = await self._requests(job, model)
                generation = Generation(
                    job,
                    model,
                    requests,
                    loop,
                    self._post,
                    metrics=self._metrics.request(model.name, job["tenant"]),
                    clock=self._clock,
                    begun=begun,
                )
                async with aclosing(generation.run()) as items:
                    async for batch in items:
                        yield batch

    @contextlib.contextmanager
    def _admitted(self, job: Job) -> Any:
        """Refuses requests beyond a number of open choices at once, as overloaded."""
        asked = max(1, len(job["prompts"])) * job["n"]
        limit = self._config.max_open_choices
        if self._open_choices + asked > limit:
            raise overloaded(
                f"{self._open_choices} choices are open and {asked} more were requested; "
                f"the limit is {limit}. Try again later."
            )
        self._open_choices += asked
        try:
            yield
        finally:
            self._open_choices -= asked

    async def _requests(self, job: Job, model: ServedModel) -> list[Request]:
        texts = [prompt for prompt in job["prompts"] if isinstance(prompt, str)]
        texts += [str(message["content"]) for message in job["messages"] or []]
        if sum(map(len, texts)) > _LONG_TEXT:
            prompts = await asyncio.to_thread(encode_prompts, job, model)
        else:
            prompts = encode_prompts(job, model)
        seed = self._draw_seed() if job["seed"] is None else job["seed"]
        return requests_of(job, model, prompts, seed=seed, cap=self._config.limits.prompt_tokens)

    async def tokenize(self, job: TokenizeJob) -> Tokens | ErrorItem:
        try:
            model = self._model(job["model"])
            if job["messages"] is not None:
                tokens = model.tokenizer.encode_chat(job["messages"], job["chat_template_kwargs"])
            else:
                tokens = model.tokenizer.encode(
                    job["prompt"] or "", special=job["add_special_tokens"]
                )
        except ProtocolError as error:
            return error.to_item()
        except BadVariable as error:
            return bad_request(str(error), "chat_template_kwargs").to_item()
        except TextError as error:
            param = "prompt" if job["messages"] is None else "messages"
            return bad_request(str(error), param).to_item()
        return {"type": "tokens", "tokens": tokens, "max_model_len": model.context_length}

    async def detokenize(self, job: DetokenizeJob) -> Text | ErrorItem:
        try:
            model = self._model(job["model"])
        except ProtocolError as error:
            return error.to_item()
        worst = max(job["tokens"], default=0)
        if worst >= model.vocabulary:
            text = f"Invalid 'tokens': {worst} is outside the vocabulary of {model.vocabulary}"
            return bad_request(text, "tokens").to_item()
        return {"type": "text", "text": model.tokenizer.decode(job["tokens"], skip_special=False)}

    async def models(self) -> Models:
        current = self._releases.current
        if current is None:
            return {"release": None, "models": []}
        cards: list[ModelCard] = [
            {
                "id": model.name,
                "created": current.created,
                "owned_by": self._config.family,
                "max_model_len": model.context_length,
                "release": current.id,
            }
            for model in current.models.values()
        ]
        return {"release": current.id, "models": cards}

    async def status(self) -> Status:
        look = self._look()
        state, stats, target = look.follow, look.engine, look.follow.target
        trouble = self._trouble()
        return {
            "healthy": trouble is None,
            "release": self._releases.serving,
            "detail": {
                "target": None if target is None else target.model_dump(exclude_none=True),
                "wanted": state.wanted,
                "staging": state.staging,
                "failed_release": None if state.failure is None else state.failure.release,
                "error": None if state.failure is None else state.failure.reason,
                "channel_error": state.trouble,
                "engine_error": trouble,
                "broken_invariant": None if stats is None else stats.broken,
                "num_running": 0 if stats is None else stats.num_running,
                "num_waiting": 0 if stats is None else stats.num_waiting,
                **({} if stats is None else {"engine": engine_figures(look)}),
            },
        }

    async def metrics(self) -> str:
        return self._metrics.page(self._look())

    async def check_health(self) -> None:
        """Raises if the engine has stopped stepping. Loading a release is healthy."""
        trouble = self._trouble()
        if trouble is not None:
            raise EngineError(trouble)

    async def aclose(self) -> None:
        """Stops the follower and the engine. Running requests fail."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        await self._releases.aclose()

    def _model(self, name: str) -> ServedModel:
        if self._releases.current is None:
            raise loading("no release is being served yet")
        return _model(self._releases.current, name)

    def _look(self) -> Snapshot:
        loop, current = self._releases.loop, self._releases.current
        return Snapshot(
            engine=None if loop is None else loop.stats(),
            follow=self._follower.state,
            serving=self._releases.serving,
            models=() if current is None else tuple(current.models),
        )

    def _trouble(self) -> str | None:
        """Why the engine is unhealthy, or None."""
        loop = self._releases.loop
        if self._stopped or loop is None:
            return "the engine has stopped" if self._stopped else None
        age = time.monotonic() - loop.stats().heartbeat
        if age <= self._config.stall_s:
            return None
        return f"the engine has not stepped for {age:.0f} s"


def _model(release: HeldRelease, name: str) -> ServedModel:
    if name not in release.models:
        raise no_such_model(name)
    return release.models[name]
