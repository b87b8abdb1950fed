"""What the replica is made of, as protocols and callables, so that tests can put in their own."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from serve_app.engine.request import Event, Request
from serve_app.engine.stats import Stats
from serve_app.text.tokenizer import Tokenizer


class ModelFacts(Protocol):
    """What of a model matters before the engine: its two configs."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def generation_config(self) -> Mapping[str, Any]: ...


class ReplicaSource(Protocol):
    """A release as the replica sees it; the engine reads more of it."""

    @property
    def id(self) -> str: ...

    @property
    def models(self) -> Mapping[str, ModelFacts]: ...


class Loop(Protocol):
    """The engine as the replica sees it. `engine.loop.EngineLoop`, or a test's."""

    def submit_all(
        self, requests: Sequence[Request], on_event: Callable[[Event], None]
    ) -> "Future[None]": ...

    def abort(self, request_id: str) -> None: ...

    def context_length(self, release: str, model: str) -> int: ...

    def fits_beside(self, source: Any) -> bool: ...

    def require_room_alone(self, source: Any) -> None: ...

    def stage(self, source: Any) -> "Future[None]": ...

    def retire(self, release: str) -> "Future[None]": ...

    def stats(self) -> Stats:
        """Of a recent turn; does not wait."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OpenedRelease:
    """A release that was read and verified as far as the engine does not do it itself.

    created: Unix seconds of its publication.
    """

    source: ReplicaSource
    tokenizers: Mapping[str, Tokenizer]
    created: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The effects of a replica. They may block, and are called on threads.

    channel: name -> release id, or None where there is no such channel.
    open_release: release id -> the release; raises ReleaseError or TextError.
    open_engine: the first release -> a running engine that has it.
    """

    channel: Callable[[str], str | None]
    open_release: Callable[[str], OpenedRelease]
    open_engine: Callable[[ReplicaSource], Loop]
