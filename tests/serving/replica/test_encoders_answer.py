"""Encoder–decoder models over HTTP, by a replica on a real engine, all in one process."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx

from serve_app.engine.engine import Engine
from serve_app.engine.loop import EngineLoop
from serve_app.serving.replica.dependencies import Loop, ReplicaSource
from tests.engine.running import ON_CPU, own_answer
from tests.serving.asking import said
from tests.serving.fakes import FakeRegistry, World
from tests.serving.running import client_of, replica_of, serves, until
from tests.support.checkpoints import byte_tokenizer, tiny_model
from tests.support.sources import MemorySource, as_replicas_know

CONFIG = replace(ON_CPU, kv_tokens=256, step_tokens=64, max_sequences=8, num_places=2)
NUM_TOKENS = 12


class RealWorld(World):
    """A registry, and an engine that computes."""

    def _open(self, first: ReplicaSource) -> Loop:
        loop = EngineLoop(lambda wake: Engine.open(first, CONFIG, on_loaded=wake))
        loop.stage(first).result(60)
        return loop


def test_models_that_are_asked_at_once_answer_as_their_own_generate_does() -> None:
    models = {f"m{seed}": tiny_model("switch_transformers", seed) for seed in (1, 2, 3)}
    release: Any = as_replicas_know(MemorySource("r1", models), {})
    tokenizer = byte_tokenizer()
    made = RealWorld(FakeRegistry({"r1": release}, {"stable": "r1"}, tokenizer=tokenizer))
    texts = ["the wolf", "a long and jolly tale of it"]
    asked = [(name, text, form) for name in models for text in texts for form in ("text", "ids")]

    async def ask(client: httpx.AsyncClient, at: int, name: str, text: str, form: str) -> str:
        """Every second answer is streamed."""
        ids = tokenizer(text)["input_ids"]
        body = {"model": name, "prompt": text if form == "text" else ids, "temperature": 0}
        body |= {"max_tokens": NUM_TOKENS, "ignore_eos": True, "skip_special_tokens": False}
        if at % 2:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        response = await client.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        chunks = said(response)[:-1] if at % 2 else [response.json()]
        assert chunks[-1]["usage"]["prompt_tokens"] == len(ids)
        assert chunks[-1]["usage"]["completion_tokens"] == NUM_TOKENS
        return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])

    async def run() -> list[str]:
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            jobs = [ask(client, at, *each) for at, each in enumerate(asked)]
            answers = await asyncio.gather(*jobs)

            async def is_idle() -> bool:
                figures = (await replica.status())["detail"]["engine"]
                assert figures["input_blocks"] == 16
                return bool(figures["input_blocks_used"] == figures["kv_blocks_used"] == 0)

            await until(is_idle)
            return answers

    answers = asyncio.run(run())
    for (name, text, _), answer in zip(asked, answers, strict=True):
        tokens, _ = own_answer(models[name], tuple(tokenizer(text)["input_ids"]), NUM_TOKENS)
        assert answer == tokenizer.decode(tokens)
    assert len(set(answers)) == len(models) * len(texts)
