"""The whole endpoint for real, as tests see it: Ray Serve on the CPU, tiny models."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import openai

from tests.serving.family import TOKENIZER, TinyFamily

MODELS = ("a", "b", "c")
PROMPT = "hello world"
TOKENS: list[int] = TOKENIZER(PROMPT)["input_ids"]
CONTEXT = 256


class Served:
    """An endpoint that runs, and what it serves."""

    def __init__(self, address: str, family: TinyFamily, releases: tuple[str, str]) -> None:
        self.address = address
        self.family = family
        self.first, self.second = releases
        self.http = httpx.Client(base_url=address, timeout=60)
        self.openai = openai.OpenAI(
            base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60
        )

    def until_serving(self, release: str, seconds: float = 60) -> float:
        """How long it took."""
        begun = time.monotonic()

        def serving() -> bool:
            response = self.http.get("/ready")
            return response.status_code == 200 and response.json()["release"] == release

        until(serving, seconds)
        return time.monotonic() - begun

    def engine(self) -> dict[str, Any]:
        detail: dict[str, Any] = self.http.get("/health").json()["detail"]
        return {**detail, **detail["engine"]}

    def idle(self) -> bool:
        engine = self.engine()
        return bool(engine["num_running"] == engine["num_waiting"] == engine["kv_blocks_used"] == 0)


def until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.05)
