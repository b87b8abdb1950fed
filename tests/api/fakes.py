"""A strict EngineClient: answers what it is told to, and checks how it is used."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

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


class FakeClient:
    """Yields `batches` for every job. `raises`: instead of the batch after them."""

    def __init__(self, *batches: Sequence[Item], raises: Exception | None = None) -> None:
        self.batches = batches
        self.raises = raises
        self.jobs: list[Job] = []
        self.num_closed = 0
        self.facts: list[AdminFacts] = []
        self.changes: list[tuple[str, AdminAction]] = []
        self.replies: list[AdminDone | ErrorItem] = []
        self.served: Models = {"release": None, "models": [], "weights": None}

    async def generate(self, job: Job) -> AsyncGenerator[list[Item], None]:
        self.jobs.append(job)
        try:
            for batch in self.batches:
                yield list(batch)
            if self.raises is not None:
                raise self.raises
        finally:
            self.num_closed += 1

    async def tokenize(self, job: TokenizeJob) -> Tokens | ErrorItem:
        return {"type": "tokens", "tokens": [1, 2], "max_model_len": 9}

    async def detokenize(self, job: DetokenizeJob) -> Text | ErrorItem:
        return {"type": "text", "text": "x"}

    async def models(self, tenant: str) -> Models:
        return self.served

    async def status(self) -> Status:
        if self.raises is not None:
            raise self.raises
        return {"healthy": False, "release": "r1", "detail": {"why": "stalled"}}

    async def metrics(self) -> str:
        return "x 1\n"

    async def admin(self) -> list[AdminFacts]:
        return list(self.facts)

    async def change(self, model: str, action: AdminAction) -> list[AdminDone | ErrorItem]:
        self.changes.append((model, action))
        return list(self.replies)


ACCEPTED: Item = {
    "type": "accepted",
    "model": "a",
    "release": "r1",
    "prompt_tokens": [3],
    "answer_tokens": 5,
}


def piece(text: str, finish: str | None = None, **change: Any) -> Item:
    made: Any = {
        "type": "piece",
        "choice": 0,
        "text": text,
        "tokens": [],
        "num_tokens": 1,
        "num_cached": 0,
        "finish": finish,
    }
    made.update(change)
    item: Item = made
    return item
