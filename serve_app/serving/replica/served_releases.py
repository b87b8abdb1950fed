"""The releases in the engine: the current one, a canary, and those that end. Decides nothing.

New requests hold the current release or the canary. A release that is neither any more is retired
when nobody holds it. All methods run on one event loop, so the code between two awaits is atomic.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from consolidation.release import Side
from representation.architecture.errors import Unservable
from representation.architecture.family_fields import config_differences
from serve_app.errors import BadRelease, ServingError
from serve_app.grammar.compiling import Compiler
from serve_app.protocol.errors import ProtocolError
from serve_app.serving.replica.dependencies import Loop, OpenedRelease, Parts
from serve_app.serving.replica.held_release import HeldRelease, Texts, read_texts
from serve_app.serving.replica.post import outcome
from serve_app.serving.replica.verifying import check_vocabularies
from serve_app.text.process.text_client import TextClient

_log = logging.getLogger(__name__)
LONGEST_WAIT_S = 10.0
"""How long a request waits for running ones to end before the next release is loaded."""


class ServedReleases:
    """Loads releases one at a time, and lets old ones finish.

    The text process has the tokenizers of a release before the engine has the rest, and longer.
    """

    def __init__(self, parts: Parts, text: TextClient, compiler: Compiler, *, drains: bool) -> None:
        """drains: whether a release that does not fit beside others waits for their end."""
        self._drains = drains
        self._parts = parts
        self._text = text
        self._compiler = compiler
        self._held: dict[str, HeldRelease] = {}
        self._retiring: dict[str, asyncio.Task[None]] = {}
        self._is_leaving = False
        self._admitting = asyncio.Event()
        self._admitting.set()
        self._family: Mapping[str, Any] = {}
        self.loop: Loop | None = None
        self.current: HeldRelease | None = None
        self.canary: HeldRelease | None = None

    @property
    def serving(self) -> str | None:
        return None if self.current is None else self.current.id

    @property
    def held(self) -> list[HeldRelease]:
        """All releases that requests may still hold."""
        return list(self._held.values())

    @property
    def admits(self) -> bool:
        """Whether new requests need not wait, or soon need to, until running ones have ended."""
        return not self._is_leaving

    @asynccontextmanager
    async def holding(
        self, model: str, side: Side, only: str | None = None
    ) -> AsyncGenerator[tuple[HeldRelease, Loop] | None, None]:
        """A release for a model, which is not retired before the block ends; None if there is none.

        It is the canary if that has the model and `side` says so, else the current release. only:
        the one release that may be it. Waits while one release is making room for the next; raises
        ProtocolError if that is long.
        """
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                await self._admitting.wait()
        except TimeoutError:
            why = "running requests end before the next release is loaded"
            raise ProtocolError("loading", why, retry_after_s=LONGEST_WAIT_S) from None
        release, loop = self._chosen(model, side, only), self.loop
        if release is None or loop is None:
            yield None
            return
        release.hold()
        try:
            yield release, loop
        finally:
            release.let_go()

    def side_of(self, release: HeldRelease) -> Side:
        """On which side a release answers."""
        return "canary" if release is self.canary and release is not self.current else "stable"

    def _chosen(self, model: str, side: Side, only: str | None) -> HeldRelease | None:
        if only is not None:
            return self._held.get(only)
        canary = self.canary
        if side == "canary" and canary is not None and model in canary.models:
            return canary
        return self.current

    async def take_up(self, release: str) -> None:
        """Makes new requests use `release`. If it cannot, raises, and the old one stays.

        Do not call it, or `take_up_canary`, again before it has returned.
        """
        before = self.current
        self.current = await self._entered(release, drains=True)
        self._retire_when_idle(before)

    async def take_up_canary(self, release: str) -> None:
        """Loads `release` beside the current one. If it cannot, raises, and nothing changes."""
        self.end_canary()
        self.canary = await self._entered(release, drains=False)

    def end_canary(self) -> None:
        """Requests on the canary's side are answered by the current release from now on."""
        before, self.canary = self.canary, None
        self._retire_when_idle(before)

    async def _entered(self, release: str, *, drains: bool) -> HeldRelease:
        """The release, loaded if it is not. drains: whether others may end to make room for it."""
        retiring = self._retiring.get(release)
        if retiring is not None and release not in self._held:
            await asyncio.wait({retiring})
        if release in self._held:
            return self._held[release]
        opened = await asyncio.to_thread(self._parts.open_release, release)
        is_first = self.loop is None
        try:
            tokenizers, loop = await self._begun(opened)
            check_vocabularies(opened.source, tokenizers.facts)
            if is_first:
                return await self._hold(opened, tokenizers, loop, may_lack=True)
            return await self._enter(loop, opened, tokenizers, drains=drains)
        except BaseException:
            if is_first:
                await self._close_loop()  # it was planned for that release
            await self._text.drop(release)
            raise

    async def _begun(self, opened: OpenedRelease) -> tuple[Texts, Loop]:
        """The tokenizers of a release, and the engine, which is opened meanwhile if there is none.

        Raises BadRelease if one cannot be read.
        """
        opening = asyncio.ensure_future(self._engine(opened))
        try:
            texts = await read_texts(opened, self._text, self._compiler)
            return texts, await opening
        finally:
            await asyncio.wait({opening})

    async def _engine(self, opened: OpenedRelease) -> Loop:
        if self.loop is None:
            self.loop = await asyncio.to_thread(self._parts.open_engine, opened.source)
            self._family = _a_config(opened)
        return self.loop

    async def aclose(self) -> None:
        """Stops the engine; running requests fail."""
        for task in self._retiring.values():
            task.cancel()
        await self._close_loop()

    async def _close_loop(self) -> None:
        loop, self.loop = self.loop, None
        if loop is not None:
            await asyncio.to_thread(loop.close)

    async def _enter(
        self,
        loop: Loop,
        opened: OpenedRelease,
        texts: Texts,
        *,
        drains: bool,
    ) -> HeldRelease:
        await asyncio.to_thread(self._check_family, opened)
        may_lack = not self._held  # otherwise requests are better off with what is there
        if drains and not await self._fits(loop, opened):
            await asyncio.to_thread(loop.require_room_alone, opened.source)
            if self._drains:
                return await self._swap(loop, opened, texts)
        await outcome(loop.stage(opened.source, may_lack=may_lack))
        return await self._hold(opened, texts, loop, may_lack=may_lack)

    async def _fits(self, loop: Loop, opened: OpenedRelease) -> bool:
        """Whether there is room beside what is loaded. If a canary takes it, the canary ends."""
        there = await asyncio.to_thread(loop.fits_beside, opened.source)
        if there or self.canary is None:
            return there
        ending = self.canary.id
        _log.warning("canary %s ends: it has the room that %s needs", ending, opened.source.id)
        self.end_canary()
        if ending in self._retiring:
            await asyncio.wait({self._retiring[ending]})
        return await asyncio.to_thread(loop.fits_beside, opened.source)

    def _check_family(self, opened: OpenedRelease) -> None:
        """Raises BadRelease for models that this engine would compute wrongly."""
        try:
            differences = config_differences(self._family, _a_config(opened))
        except Unservable as error:
            raise BadRelease(f"release {opened.source.id}: {error}") from error
        for found in differences:
            if found.ignored is None:
                raise BadRelease(
                    f"release {opened.source.id} is of another family: {found.field} is "
                    f"{found.other!r}, and {found.one!r} in the served release"
                )

    async def _swap(self, loop: Loop, opened: OpenedRelease, texts: Texts) -> HeldRelease:
        """If two releases do not fit together: lets new requests wait until running ones end."""
        _log.warning("release %s does not fit next to the served one: draining", opened.source.id)
        before = self.current
        self._is_leaving = True
        try:
            await asyncio.sleep(self._parts.neighbours.hear_s)
            self.end_canary()
            self._admitting.clear()
            for held in list(self._held.values()):
                await held.idle.wait()
                await self._retire(loop, held)
            for task in list(self._retiring.values()):
                await asyncio.wait({task})
            try:
                await outcome(loop.stage(opened.source, may_lack=False))
                self.current = await self._hold(opened, texts, loop, may_lack=False)
            except BaseException:
                if before is not None:
                    await outcome(loop.stage(before.source, may_lack=True))
                    self._held[before.id] = before
                raise
            if before is not None:
                await self._text.drop(before.id)
            return self.current
        finally:
            if self.current is not None and self.current.id not in self._held:
                self.current = None  # not even the old one could be loaded again
            self._is_leaving = False
            self._admitting.set()

    async def _hold(
        self,
        opened: OpenedRelease,
        texts: Texts,
        loop: Loop,
        *,
        may_lack: bool,
    ) -> HeldRelease:
        """A release that the engine has, for requests, once it is verified there.

        may_lack: whether models that cannot be loaded may be missing for the time being.
        """
        try:
            entered = await asyncio.to_thread(HeldRelease, opened, texts, loop)
            await entered.verification.all(loop, may_lack=may_lack)
        except BaseException:
            await outcome(loop.retire(opened.source.id))
            raise
        self._held[entered.id] = entered
        return entered

    def _is_wanted(self, held: HeldRelease) -> bool:
        return held is self.current or held is self.canary

    def _retire_when_idle(self, held: HeldRelease | None) -> None:
        if held is None or self._is_wanted(held):
            return
        if held.id in self._held and held.id not in self._retiring:
            task = asyncio.get_running_loop().create_task(self._finish(held))
            self._retiring[held.id] = task

    async def _finish(self, held: HeldRelease) -> None:
        try:
            await held.idle.wait()
            while not self._is_wanted(held) and held.id in self._held:
                if held.num_holders == 0 and self.loop is not None:
                    await self._retire(self.loop, held)
                await held.idle.wait()
            if held.id not in self._held:
                await self._text.drop(held.id)
        except ServingError:
            _log.exception("release %s could not be retired", held.id)
        finally:
            self._retiring.pop(held.id, None)

    async def _retire(self, loop: Loop, held: HeldRelease) -> None:
        if self._held.pop(held.id, None) is not None:
            await outcome(loop.retire(held.id))


def _a_config(opened: OpenedRelease) -> Mapping[str, Any]:
    """The config of one of the release's models, which are all of one family."""
    return opened.source.models[min(opened.source.models)].config
