"""Clients that ask through a balancer that knows several addresses. Knows no cluster."""

import asyncio
import random
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Any

import openai

from tests.chaos.asking import Question, ask
from tests.chaos.ledger import Kind, Outcome
from tests.chaos.references import LONGEST, References

PAUSE_S = 0.2
"""The longest that a client thinks after an answer."""
PATIENCE_S = 300.0
PACED = 200
"""Tokens by which the pace of streams is found."""
LENGTHS = (4, 12, 40, LONGEST)


@dataclass(frozen=True, slots=True)
class Answered:
    """One request.   address: by which proxy.   tokens: of a stream, as far as it came."""

    address: str
    outcome: Outcome
    tokens: int = 0


class Clients:
    """Requests take turns among the addresses. One event loop in a thread of its own."""

    def __init__(
        self, addresses: Sequence[str], key: str, models: Sequence[str], references: References
    ) -> None:
        self.addresses = list(addresses)
        self._models, self._references = tuple(models), references
        self._turn, self._number = count(), count()
        self._ends = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._http = {one: self._client(one, key) for one in addresses}
        self._asking: list[Future[None]] = []
        self._answered: list[Answered] = []

    def begin(self, number: int) -> None:
        """As many clients ask one question after another, until `end`."""
        self._ends.clear()
        self._answered = []
        self._asking = [self._start(self._ask_on(each)) for each in range(number)]

    @property
    def num_answered(self) -> int:
        return len(self._answered)

    def end(self) -> list[Answered]:
        """Every client finishes what it has asked. -> all since `begin`"""
        self._ends.set()
        for each in self._asking:
            each.result(PATIENCE_S)
        self._asking = []
        return self._answered

    def leave(self, address: str) -> None:
        """The balancer sends nothing new there."""
        self.addresses.remove(address)

    def streams(self, number: int, tokens: int) -> list[Future[Answered]]:
        """As many streams of so many tokens, in turn among the addresses."""
        return [self._start(self._stream(self._next(), tokens)) for _ in range(number)]

    def streams_of(self, number: int, seconds: float) -> list[Future[Answered]]:
        """Streams that will take about as long as said, and 300 tokens at least."""
        begun = monotonic()
        for each in self.streams(number, PACED):
            each.result(PATIENCE_S)
        return self.streams(number, max(300, round(PACED * seconds / (monotonic() - begun))))

    def close(self) -> None:
        self.end()
        for client in self._http.values():
            self._start(client.close()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, address: str) -> Answered:
        """One short question, at once."""
        found: Answered = self._start(self._ask(address, self._question(random.Random(0)))).result(
            PATIENCE_S
        )
        return found

    def _start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    @staticmethod
    def _client(address: str, key: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S
        )

    def _next(self) -> str:
        return self.addresses[next(self._turn) % len(self.addresses)]

    async def _ask_on(self, number: int) -> None:
        choice = random.Random(number)
        while not self._ends.is_set():
            self._answered.append(await self._ask(self._next(), self._question(choice)))
            await asyncio.sleep(choice.uniform(0, PAUSE_S))

    async def _ask(self, address: str, question: Question) -> Answered:
        outcome = await ask(self._http[address], question, self._references)
        return Answered(address, outcome)

    def _question(self, choice: random.Random) -> Question:
        model, prompt = choice.choice(self._models), choice.choice(self._references.prompts)
        length = min(choice.choice(LENGTHS), self._references.shortest(model, prompt))
        return Question(
            model,
            prompt,
            length,
            streamed=choice.random() < 0.6,
            logprobs=False,
        )

    async def _stream(self, address: str, tokens: int) -> Answered:
        """A completion of exactly so many tokens: whole, or how it ended."""
        begun, heard = monotonic(), 0
        finish, kind, said = None, Kind.LOST, ""
        # Each begins in its own way: those that begin alike would go to one engine.
        prompt = f"{next(self._number)} {self._references.prompts[0].text}"
        try:
            answer = await self._http[address].completions.create(
                model=self._models[0],
                prompt=prompt,
                max_tokens=tokens,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            async for part in answer:
                heard += sum(bool(choice.text) for choice in part.choices)
                finish = next((one.finish_reason for one in part.choices), None) or finish
                if part.usage is not None:
                    heard = part.usage.completion_tokens
            kind = Kind.RIGHT if (finish, heard) == ("length", tokens) else Kind.LOST
            said = "" if kind is Kind.RIGHT else f"{finish} after {heard} tokens"
        except openai.APIStatusError as error:
            kind, said = Kind.REFUSED, f"{error.status_code} {error.code}"
        except openai.APIConnectionError as error:
            kind, said = Kind.CUT, type(error.__cause__).__name__
        except openai.APIError as error:
            kind, said = Kind.ENDED, str(error.code)
        except Exception as error:  # noqa: BLE001  of the connection's library: cut in the middle
            kind, said = Kind.CUT, type(error).__name__
        return Answered(address, Outcome(kind, self._models[0], begun, monotonic(), said), heard)
