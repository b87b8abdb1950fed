"""Clients of several tenants that ask all models, again and again, in a thread. Knows no fault."""

import asyncio
import random
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any

import openai

from tests.chaos.asking import TIMEOUT_S, Question, ask
from tests.chaos.ledger import Kind, Ledger, Outcome
from tests.chaos.references import References

LENGTHS = (4, 12, 40, 90)
NUM_USERS = 20
"""Of each tenant."""
PAUSE_S, AGAIN_S = 0.3, 0.25
"""The longest that a client thinks after an answer, and how long it waits after an error. Without
pauses two cores would be full, and what else must start there would be slow for that alone."""


class Load:
    """Each client asks one question after another: streams or not, with log-probabilities or not.

    keys: of each client one.   models: and aliases; all clients ask for all of them.
    """

    def __init__(
        self, address: str, keys: Sequence[str], models: Sequence[str], references: References
    ) -> None:
        self.ledger = Ledger()
        self.models = tuple(models)
        self.keys = tuple(keys)
        self.address, self._references = address, references
        self._ends = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._clients: list[Future[None]] = []

    def begin(self) -> None:
        self._ends.clear()
        self._clients = [
            self.start(self._ask_on(number, key)) for number, key in enumerate(self.keys)
        ]

    def end(self) -> None:
        """Every client finishes what it has asked."""
        self._ends.set()
        for client in self._clients:
            client.result(timeout=2 * TIMEOUT_S)
        self._clients = []

    def close(self) -> None:
        self.end()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Work among the clients, on their event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def probe(self) -> list[Outcome]:
        """One short question to each model, outside the ledger."""
        outcomes: list[Outcome] = self.start(self._probe()).result(timeout=2 * TIMEOUT_S)
        return outcomes

    def ask_one(self, model: str) -> Outcome:
        """A short question, in the ledger."""
        outcome: Outcome = self.start(self._ask_short(model)).result(timeout=2 * TIMEOUT_S)
        self.ledger.add(outcome)
        return outcome

    def client(self, key: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=TIMEOUT_S
        )

    async def _probe(self) -> list[Outcome]:
        return await asyncio.gather(*(self._ask_short(model) for model in self.models))

    async def _ask_short(self, model: str) -> Outcome:
        question = Question(model, self._references.prompts[0], 2, streamed=True, logprobs=True)
        async with self.client(self.keys[0]) as client:
            return await ask(client, question, self._references)

    async def _ask_on(self, number: int, key: str) -> None:
        choice = random.Random(number)
        async with self.client(key) as client:
            while not self._ends.is_set():
                outcome = await ask(client, self._question(choice), self._references)
                self.ledger.add(outcome)
                right = outcome.kind is Kind.RIGHT
                await asyncio.sleep(choice.uniform(0, PAUSE_S) if right else AGAIN_S)

    def _question(self, choice: random.Random) -> Question:
        model, prompt = choice.choice(self.models), choice.choice(self._references.prompts)
        length = min(choice.choice(LENGTHS), self._references.shortest(model, prompt))
        return Question(
            model,
            prompt,
            length,
            streamed=choice.random() < 0.6,
            logprobs=choice.random() < 0.5,
            user=f"user-{choice.randrange(NUM_USERS)}",
        )
