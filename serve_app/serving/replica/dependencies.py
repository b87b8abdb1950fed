"""The parts of a replica as protocols and callables, so that tests can supply their own."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from consolidation.release import Aliases, Canary, Golden
from serve_app.engine.request import Event, Request
from serve_app.engine.residents import Residence
from serve_app.engine.source import ModelLike, ReleaseSource
from serve_app.engine.stats import Stats
from serve_app.scheduling.sequence import ModelKey
from serve_app.serving.replica.neighbours import Alone, Neighbours
from serve_app.text.process.text_client import TextClient


class ReplicaModel(ModelLike, Protocol):
    """A model as its engine needs it, its generation defaults, and what it must answer."""

    @property
    def generation_config(self) -> Mapping[str, Any]: ...

    @property
    def golden(self) -> Golden | None: ...


class ReplicaSource(ReleaseSource, Protocol):
    """A release as the replica passes it to its engine."""

    @property
    def models(self) -> Mapping[str, ReplicaModel]: ...


class Loop(Protocol):
    """The engine as the replica sees it: `engine.loop.EngineLoop`, or a fake in tests."""

    @property
    def dtype(self) -> str:
        """What it computes in."""
        ...

    def submit_all(
        self, requests: Sequence[Request], on_event: Callable[[Event], None]
    ) -> "Future[None]": ...

    def abort(self, request_id: str) -> None: ...

    def context_length(self, release: str, model: str) -> int: ...

    def longest_prompt(self, release: str, model: str) -> int: ...

    def fits_beside(self, source: ReplicaSource) -> bool: ...

    def require_room_alone(self, source: ReplicaSource) -> None: ...

    def load(self, model: ModelKey) -> "Future[None]": ...

    def unload(self, model: ModelKey) -> "Future[None]": ...

    def pin(self, models: Collection[ModelKey]) -> "Future[None]": ...

    def residence(self) -> "Future[Residence]": ...

    def stage(self, source: ReplicaSource, *, may_lack: bool) -> "Future[None]": ...

    def retire(self, release: str) -> "Future[None]": ...

    def stats(self) -> Stats:
        """As of a recent turn. Does not wait."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OpenedRelease:
    """A release whose manifest was read and verified.

    write_tokenizer: puts the files of a model's tokenizer, verified, into a directory.
    created: Unix seconds of its publication.
    """

    source: ReplicaSource
    write_tokenizer: Callable[[str, Path], None]
    created: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The effects of a replica. Those that are functions may block: they are called on threads.

    channel: name -> release id, or None if there is no such channel.
    canary, aliases: name of a channel -> what the file beside it says, None if there is none.
    open_release: release id -> the release; raises ReleaseError.
    open_engine: the first release -> a running engine that has it, but perhaps not all backbones.
    text: of requests; its process may run already.   neighbours: the other replicas.
    """

    channel: Callable[[str], str | None]
    canary: Callable[[str], Canary | None]
    aliases: Callable[[str], Aliases | None]
    open_release: Callable[[str], OpenedRelease]
    open_engine: Callable[[ReplicaSource], Loop]
    text: TextClient
    neighbours: Neighbours = field(default_factory=Alone)
