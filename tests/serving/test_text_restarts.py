"""A text process that is killed amid streams of a replica: answers stay, the engine goes on."""

import asyncio
import os
import signal
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.api.requests.fields import CompletionFields
from serve_app.api.requests.jobs import completion_job
from serve_app.config import RequestLimits
from serve_app.protocol.messages import Item, Job
from serve_app.serving.replica.dependencies import Parts
from serve_app.serving.replica.replica import EngineReplica
from serve_app.tenants.keyring import ANYBODY
from serve_app.text.process import keeper
from serve_app.text.process.text_client import TextClient
from serve_app.text.process.text_process import Hear, TextProcess
from tests.serving.asking import refused
from tests.serving.fakes import TOKENIZER, World, world
from tests.serving.metric_pages import of_one
from tests.serving.running import client_of, replica_of, serves, until

LINE = TOKENIZER.encode("the quick brown fox jumps over the lazy dog")


@dataclass
class RealTexts(World):
    """With real text processes."""

    processes: list[TextProcess] = field(default_factory=list)

    def parts(self) -> Parts:
        return replace(super().parts(), text=TextClient(self._start_process))

    async def _start_process(self, directory: str, hear: Hear) -> TextProcess:
        self.processes.append(await TextProcess.start(directory, hear))
        return self.processes[-1]


def _job(name: str, **fields: Any) -> Job:
    body = {"model": "a", "prompt": "the", "max_tokens": len(LINE), **fields}
    checked = CompletionFields.model_validate(body)
    return completion_job(checked, RequestLimits(), job=name, caller=ANYBODY)


JOBS: tuple[dict[str, Any], ...] = (
    {},
    {"stop": ["x jumps ov"]},  # comes in several tokens
    {"stop": ["lazy cat"], "logprobs": 2, "n": 2},
    {"echo": True, "logprobs": 1},
)


def _answers(kill_at: int | None = None) -> tuple[list[list[Item]], int]:
    """What each choice of the jobs is answered, and the steps that it took."""

    async def run() -> tuple[list[list[Item]], int]:
        made = (World if kill_at is None else RealTexts)(world().registry, {"a": LINE}, manual=True)
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            jobs = [_job(f"j{number}", **fields) for number, fields in enumerate(JOBS)]
            asking = [asyncio.create_task(_collect(replica, job)) for job in jobs]
            await until(lambda: len(made.loop.seen) == 5)
            steps = 0
            while made.loop.pages < 64:
                if steps == kill_at and isinstance(made, RealTexts):
                    os.kill(made.processes[0].id, signal.SIGKILL)
                made.loop.step()
                steps += 1
                await asyncio.sleep(0.002)
            answers = [choice for each in asking for choice in await each]
            num_restarts = 0 if kill_at is None else 1
            assert f"text_restarts_total {num_restarts}.0" in of_one(await replica.metrics())
            assert (await replica.status())["healthy"]
            return answers, steps

    return asyncio.run(run())


async def _collect(replica: EngineReplica, job: Job) -> list[list[Item]]:
    """The items of each choice."""
    found: list[list[Item]] = [[] for _ in range(job["n"])]
    async with aclosing(replica.generate(job)) as batches:
        async for batch in batches:
            for item in batch:
                found[item["choice"] if item["type"] == "piece" else 0].append(item)
    return found


def test_streams_say_the_same_when_the_text_process_is_killed_amid_them() -> None:
    undisturbed, steps = _answers()
    stopped = [item for item in undisturbed[1] if item["type"] == "piece"]
    assert "".join(piece["text"] for piece in stopped) == "the quick brown fo"
    assert (stopped[-1]["finish"], steps) == ("stop", len(LINE))
    assert _answers(kill_at=5) == (undisturbed, len(LINE))


def test_a_text_process_that_keeps_dying_makes_the_replica_unhealthy_and_answers_503() -> None:
    async def run() -> None:
        made = world(manual=True)
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            body = {"model": "a", "prompt": "the", "max_tokens": 5}
            asking = asyncio.create_task(client.post("/v1/completions", json=body))
            await until(lambda: len(made.loop.seen) == 1)
            for number in range(keeper.MOST_DEATHS):
                await until(lambda: len(made.texts) == number + 1)  # noqa: B023
                made.texts[-1].kill()
            refused(await asking, 503, "loading", None)
            assert made.loop.pages == 64
            for path, asked in (
                ("/v1/completions", body),
                ("/tokenize", {"model": "a", "prompt": "x"}),
            ):
                refused(await client.post(path, json=asked), 503, "loading", None)
            health = await client.get("/health")
            assert health.status_code == 503
            assert "text process has ended 3 times" in health.text

    asyncio.run(run())
