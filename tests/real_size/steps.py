"""The steps: make two checkpoints, consolidate them, serve the release, compare its answers.

Each is measured with all processes together, and ended where it holds more than it may.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from torch.nn import functional

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.golden_prompts import golden_logits
from consolidation.release import Golden, Registry
from consolidation.run.ray_start import patient_start
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights
from serve_app.bench.consolidate.consolidating import Subject, measure, write_family, write_text
from serve_app.bench.consolidate.stage_watch import held_bytes
from serve_app.bench.http.processor_time import parts, running
from serve_app.bench.result.measured import OnProgress
from serve_app.bench.weights.shapes import SHAPES
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.serving.run import endpoint, free_port
from serve_app.text.tokenizer import Tokenizer

SHAPE = "olmoe-1b-7b"
BUDGET = 0.75
CONSOLIDATE_BYTES = 8 << 30
"""What all processes that consolidate may hold together."""
SERVE_BYTES = 16 << 30
"""What all processes that serve and ask may hold together."""
POSITIONS = 64
PROMPT = "The weather in the mountains turns quickly"
ROUNDING_KL = 0.001
"""Nats per token that computing in bfloat16 may add to the stated KL."""
SAMPLE_S = 0.1
READY_S = 600.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything of a run is."""

    directory: Path
    layers: int

    @property
    def subject(self) -> Subject:
        return Subject(SHAPES[SHAPE].config(self.layers), 2)

    @property
    def models(self) -> dict[str, Path]:
        return {name: self.directory / "models" / name for name in ("m0", "m1")}

    @property
    def registry(self) -> Registry:
        return Registry(str(self.directory / "registry"), "bench")


def disk_bytes(layers: int) -> int:
    """Two checkpoints of 14 GB, their statistics, and the release: 60 GB for all 16 layers."""
    return int(60e9 * (layers + 1) / (SHAPES[SHAPE].num_layers + 1))


def made(place: Place, on_progress: OnProgress) -> None:
    """Write the base and the fine-tune, unless both are there."""
    if not all(path.is_dir() for path in place.models.values()):
        write_family(place.directory / "models", place.subject, on_progress)


def consolidated(place: Place, on_progress: OnProgress) -> dict[str, Any]:
    """Consolidate, unless that is done. -> as `bench consolidate` finds it"""
    done = place.directory / "consolidated.json"
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    write_text(place.directory / "text.txt")
    cores = os.cpu_count() or 1
    facts = measure(
        place.models, place.directory, BUDGET, cores, on_progress, most_bytes=CONSOLIDATE_BYTES
    )
    done.write_text(json.dumps(facts))
    return facts


def compared(place: Place) -> dict[str, Any]:
    """Serve the release and compare answers with the originals': KL by model, and the peak."""
    (only,) = place.registry.releases()
    release = only.id
    quality = place.registry.read_manifest(release).quality
    with _most_held() as held:
        answers = _answers(place, release)
    found: dict[str, Any] = {"serving_bytes": held[0], "kl": {}, "stated_kl": {}}
    for name, path in place.models.items():
        found["kl"][name] = _kl(path, *answers[name])
        found["stated_kl"][name] = quality[name].kl
    found["passed"] = held[0] <= SERVE_BYTES and all(
        kl <= found["stated_kl"][name] + ROUNDING_KL for name, kl in found["kl"].items()
    )
    return found


Answer = tuple[list[int], list[dict[str, float]], list[str]]
"""The prompt's tokens; by position, log-probabilities of the likeliest texts; the answer's."""


def _answers(place: Place, release: str) -> dict[str, Answer]:
    config = ServeConfig(
        registry=str(place.directory / "registry"),
        family="bench",
        engine=EngineConfig(device="cpu", kv_tokens=1024, device_memory=SERVE_BYTES),
        insecure_no_keys=True,
    )
    answers = {}
    with endpoint(
        config, UserConfig(release=release), free_port(), starting=patient_start
    ) as address:
        _wait_until_ready(address)
        for name, path in place.models.items():
            prompt = Tokenizer.load(path).encode(PROMPT)
            asked = {
                "model": name,
                "prompt": [prompt],
                "max_tokens": POSITIONS,
                "temperature": 0,
                "logprobs": 20,
                "ignore_eos": True,
            }
            told = httpx.post(f"{address}/v1/completions", json=asked, timeout=READY_S)
            logprobs = told.raise_for_status().json()["choices"][0]["logprobs"]
            answers[name] = prompt, logprobs["top_logprobs"], logprobs["tokens"]
    return answers


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + READY_S
    while httpx.get(f"{address}/ready", timeout=READY_S).status_code != httpx.codes.OK:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{address} is not ready after {READY_S:g} s")
        time.sleep(0.2)


def _kl(path: Path, prompt: list[int], top: list[dict[str, float]], texts: list[str]) -> float:
    """What the answers show of KL(original || served), in nats per token.

    For distributions so near, KL is half the mean of (log p - log q) squared; the tokens that the
    endpoint tells, weighted by their probability, stand for all.
    """
    tokenizer = Tokenizer.load(path)
    tokens: dict[str, int] = {}
    for token in range(tokenizer.vocabulary):
        tokens.setdefault(tokenizer.readable(token), token)
    answer = tuple(tokens[text] for text in texts)
    asked = Golden(prompt=tuple(prompt), tokens=answer, top=((),) * len(answer), dtype="float32")
    model = StreamedModel(CheckpointWeights(open_checkpoint(path)))
    before = functional.log_softmax(golden_logits(model, asked).double(), -1)  # (tokens, V)
    total = 0.0
    for position, told in zip(before, top, strict=True):
        known = [(position[tokens[text]], value) for text, value in told.items() if text in tokens]
        weight = sum(float(log_p.exp()) for log_p, _ in known)
        square = sum(float(log_p.exp() * (log_p - log_q) ** 2) for log_p, log_q in known)
        total += square / weight / 2
    return total / len(answer)


@contextmanager
def _most_held() -> Iterator[list[int]]:
    """The most bytes that this process and all below it held together, in a list of one."""
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            most[0] = max(most[0], held_bytes(parts(os.getpid(), 0, running())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()
