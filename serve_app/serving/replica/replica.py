"""The engine deployment's class: text in, text out, one release after another. Plain: no Ray."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from consolidation.release import Alias, Side
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.request import Request
from serve_app.errors import EngineError, EngineStopped, ServingError, Unavailable, where
from serve_app.grammar.compiling import Compiler
from serve_app.protocol.errors import ProtocolError, loading, no_such_model
from serve_app.protocol.messages import (
    AdminAction,
    AdminDone,
    AdminFacts,
    DetokenizeJob,
    ErrorItem,
    Item,
    Job,
    Models,
    Status,
    Text,
    TokenizeJob,
    Tokens,
)
from serve_app.serving.metrics.counting import Metrics
from serve_app.serving.metrics.metrics_pages import PlainFamily, page, plain
from serve_app.serving.replica.dependencies import Loop, Parts
from serve_app.serving.replica.follow import Follower
from serve_app.serving.replica.follow_canary import CanaryFollower
from serve_app.serving.replica.generation import Generation, protocol_error, unavailable
from serve_app.serving.replica.held_release import HeldRelease
from serve_app.serving.replica.open_room import OpenJobs
from serve_app.serving.replica.post import Post
from serve_app.serving.replica.prepare import (
    ServedModel,
    encode_prompts,
    grammar_of,
    requests_of,
    text_of,
    tokens_of,
    within,
)
from serve_app.serving.replica.served_releases import ServedReleases
from serve_app.serving.replica.telling.administration import Administration
from serve_app.serving.replica.telling.job_lines import Answering, tell_end, tell_fault
from serve_app.serving.replica.telling.readiness import Unserved, until_serving
from serve_app.serving.replica.telling.replica_view import View
from serve_app.serving.replica.telling.status_facts import models_of
from serve_app.serving.traffic.aliasing import alias_of, job_for, tokenize_job_for
from serve_app.serving.traffic.shares import settled_side_of, side_of
from serve_app.serving.traffic.watched import Watched
from serve_app.serving.transport.carrier import Opening, Parcel
from serve_app.serving.transport.sender import Sender
from serve_app.text.choice_facts import WantedAnswer

_log = logging.getLogger(__name__)


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
        begun: float | None = None,
        name: str | None = None,
    ) -> None:
        """begun: when this began to start, by the clock; None: now.   name: of this replica among
        others; None: a new one.
        """
        self.name = secrets.token_hex(4) if name is None else name
        self._config = config
        self._clock = clock
        self._metrics = Metrics(config.metrics.max_tenants, self.name)
        self._post = Post()
        self._sender = Sender(self.generate)
        self._text = parts.text
        self._compiler, drains = Compiler(), config.reload == "drain"
        self._releases = ServedReleases(parts, self._text, self._compiler, drains=drains)
        self._canary = Watched(parts.canary, "the canary")
        self._aliases = Watched(parts.aliases, "the aliases")
        canary, releases, neighbours = self._canary, self._releases, parts.neighbours
        self._canary_follower = CanaryFollower(canary, releases, clock, neighbours)
        self._follower = Follower(
            parts.channel,
            self._take_up,
            lambda: self._releases.serving,
            poll_s=config.poll_s,
            clock=clock,
            look_beside=self._look_beside,
            neighbours=neighbours,
        )
        self._administration = Administration(
            self.name,
            self._releases,
            self._follower.state,
            self._canary,
            self._canary_follower,
            self._aliases,
        )
        self._following: asyncio.Task[None] | None = None
        self._serves = asyncio.Event()
        self._open = OpenJobs(
            config.max_open_choices, config.max_open_tokens, is_shared=config.keys is not None
        )
        self._making_s = 0.0 if begun is None else clock() - begun
        self.view = View(
            config,
            self._metrics,
            self._releases,
            self._follower.state,
            self._canary,
            self._canary_follower,
            self._aliases,
            self._open,
            self._text,
            Unserved(config.unserved_s, clock),
        )

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Sets the channel or release to serve and returns at once; loads in the background.

        Raises pydantic's ValidationError for anything else, with nothing changed.
        """
        self._follower.aim(UserConfig.model_validate(user_config))
        if self._following is None:
            self._text.begin()
            self._following = asyncio.get_running_loop().create_task(self._follower.run())

    async def until_serving(self) -> None:
        """Returns when a release is served, to be called after `reconfigure`. Meanwhile the log
        says what that waits for. Raises EngineError if it never will be, in this process.
        """
        assert self._following is not None
        where = f"family '{self._config.family}' of {self._config.registry}"
        state = self._follower.state
        await until_serving(self._serves, self._following, where, state, self.view.trouble)

    async def generate(self, job: Job) -> AsyncGenerator[list[Item], None]:
        """See `EngineClient`. Closing it aborts the job in the engine."""
        begun = self._clock()
        answering = Answering()
        try:
            async with aclosing(self._answer(job, begun, answering)) as items:
                async for batch in items:
                    yield batch
        except ProtocolError as error:
            answering.code = error.code
            if isinstance(error.__cause__, EngineStopped):
                self.view.has_stopped = True
            if error.is_fault:
                tell_fault(job, str(error.__cause__ or error))
            yield [error.to_item()]
        except ServingError as error:
            tell_fault(job, f"{error}, {where(error)}")
            failed = protocol_error(error)
            answering.code = failed.code
            yield [failed.to_item()]
        finally:
            if answering.code is not None:
                self._metrics.refused(answering.code, job["tenant"], answering.side)
            tell_end(job, answering, self._clock() - begun)

    async def send(self, job: Job, ingress: str) -> AsyncGenerator[Opening | Parcel, None]:
        """`generate`, for an ingress that reads its jobs together: see `Sender`."""
        async with aclosing(self._sender.send(job, ingress)) as messages:
            async for message in messages:
                yield message

    async def abort(self, job: str) -> None:
        """Aborts a job of `send`, if it is here."""
        self._sender.abort(job)

    async def _answer(
        self, asked: Job, begun: float, answering: Answering
    ) -> AsyncGenerator[list[Item], None]:
        timeout_s = asked["timeout_s"]
        deadline = None if timeout_s is None else begun + timeout_s
        alias = alias_of(self._aliases.value, asked["model"])
        job = job_for(asked, alias)
        side = side_of(self._canary.value, job["tenant"], job["user"] or job["id"])
        with self._open.entered(job) as entered:
            async with contextlib.AsyncExitStack() as stack:
                async with within(timeout_s):
                    holding = self._holding(asked["model"], alias, side, job["release"])
                    model, release, loop = await stack.enter_async_context(holding)
                    answering.side = self._releases.side_of(release)
                    await _verified(asked["model"], model, release, loop)
                    requests, answer = await self._requests(job, model, deadline)
                entered.take_tokens(sum(len(request.prompt) for request in requests))
                counted = self._metrics.request(
                    model.name,
                    job["tenant"],
                    answering.side,
                    job["service_class"],
                    job.get("request", job["id"]),
                )
                answering.release, answering.model, answering.counted = (
                    release.id,
                    model.name,
                    counted,
                )
                generation = Generation(
                    job,
                    model,
                    requests,
                    answer,
                    loop,
                    self._post,
                    self._text,
                    metrics=counted,
                    clock=self._clock,
                    begun=begun,
                )
                items = await stack.enter_async_context(aclosing(generation.run()))
                async for batch in items:
                    yield batch

    @contextlib.asynccontextmanager
    async def _holding(
        self, asked: str, alias: Alias | None, side: Side, only: str | None = None
    ) -> AsyncGenerator[tuple[ServedModel, HeldRelease, Loop], None]:
        """The model that was asked for, of a release that stays until the block ends.

        only: the one release that may answer. Raises ProtocolError.
        """
        name = asked if alias is None else alias.model
        async with self._releases.holding(name, side, only) as held:
            if held is None and only is not None:
                raise loading(f"release {only}, with which this answer began, is no longer served")
            if held is None:
                raise loading("no release is being served yet")
            release, loop = held
            if name not in release.models:
                raise no_such_model(asked)
            model = release.models[name]
            if alias is not None and alias.max_tokens is not None:
                defaults = replace(model.defaults, alias_tokens=alias.max_tokens)
                model = replace(model, defaults=defaults)
            yield model, release, loop

    async def _take_up(self, release: str) -> None:
        asked = self._clock()
        await self._releases.take_up(release)
        self._serves.set()
        if self.view.start_s is None:
            self.view.start_s = self._making_s + self._clock() - asked
        held = self._releases.current
        _log.info("release %s has the models %s", release, ", ".join(held.models if held else ()))

    async def _look_beside(self, channel: str | None) -> None:
        if self._follower.state.trouble is None:  # else they are out of sight, and not gone
            await self._aliases.look(channel)
            await self._canary_follower.look(channel)
        await self._administration.renew_pins()
        self._metrics.keep({name for held in self._releases.held for name in held.models})

    async def _requests(
        self, job: Job, model: ServedModel, deadline: float | None
    ) -> tuple[list[Request], WantedAnswer | None]:
        cap = self._config.limits.prompt_tokens
        prompts, answer = await encode_prompts(job, model, self._text, cap)
        grammar = await grammar_of(job, model, answer, self._text, self._compiler)
        return requests_of(job, model, prompts, grammar, deadline=deadline), answer

    async def tokenize(self, asked: TokenizeJob) -> Tokens | ErrorItem:
        alias = alias_of(self._aliases.value, asked["model"])
        job = tokenize_job_for(asked, alias)
        try:
            side = settled_side_of(self._canary.value, job["tenant"])
            async with self._holding(asked["model"], alias, side) as (model, _, _):
                tokens = await tokens_of(job, model, self._text, self._config.limits.text_tokens)
                return {"type": "tokens", "tokens": tokens, "max_model_len": model.context_length}
        except ProtocolError as error:
            return error.to_item()
        except ServingError as error:
            return protocol_error(error).to_item()

    async def detokenize(self, job: DetokenizeJob) -> Text | ErrorItem:
        alias = alias_of(self._aliases.value, job["model"])
        try:
            side = settled_side_of(self._canary.value, job["tenant"])
            async with self._holding(job["model"], alias, side) as (model, _, _):
                most = self._config.limits.text_tokens
                return {"type": "text", "text": await text_of(job, model, self._text, most)}
        except ProtocolError as error:
            return error.to_item()
        except ServingError as error:
            return protocol_error(error).to_item()

    async def models(self, tenant: str) -> Models:
        side = settled_side_of(self._canary.value, tenant)
        canary = self._releases.canary if side == "canary" else None
        return models_of(self._config.family, self._releases.current, canary, self._aliases.value)

    async def status(self) -> Status:
        return self.view.status()

    async def metrics(self) -> str:
        return page(self.view.families())

    async def plain_metrics(self) -> list[PlainFamily]:
        """For an ingress, which asks all replicas."""
        return plain(self.view.families())

    async def admin(self) -> list[AdminFacts]:
        return [await self._administration.facts()]

    async def change(self, model: str, action: AdminAction) -> list[AdminDone | ErrorItem]:
        return [await self._administration.change(model, action)]

    async def check_health(self) -> None:
        """Raises if the engine has stopped stepping, texts are given up, or nothing is served any
        more. To load a first release is healthy.
        """
        trouble = self.view.trouble()
        if trouble is not None:
            raise EngineError(trouble)

    async def aclose(self) -> None:
        """Stops the follower, the engine and the text process. Running requests fail."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        await self._releases.aclose()
        await self._text.aclose()
        self._compiler.close()


async def _verified(asked: str, model: ServedModel, release: HeldRelease, loop: Loop) -> None:
    """Returns when requests may use a model, which its release may have lacked at first."""
    try:
        await release.verification.one(loop, model.name)
    except Unavailable as error:
        raise unavailable(asked, error) from error
