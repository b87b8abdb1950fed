"""Asks models: the endpoint over HTTP, an original with generate(). Does not judge answers."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from serve_app.demo import skills
from serve_app.demo.byte_tokenizer import decode_answer, encode_prompt
from serve_app.demo.making import load

MAX_TOKENS = 24
"""Longer than any right answer."""
TIMEOUT_S = 120.0


class NotAnswered(Exception):
    """The endpoint answered with an error, or not at all."""


@dataclass(frozen=True, slots=True)
class Question:
    """A word that a model is asked about."""

    model: str
    word: str

    @property
    def prompt(self) -> str:
        return skills.prompt(self.word)

    def is_right(self, answer: str) -> bool:
        return skills.is_right(self.model, self.word, answer)


def body(question: Question) -> dict[str, Any]:
    """The request for `POST /v1/completions`."""
    return {
        "model": question.model,
        "prompt": question.prompt,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }


def ask_endpoint(address: str, questions: Sequence[Question]) -> dict[Question, str]:
    """Asks every question in its own request, all at the same time. Raises NotAnswered."""

    def ask(question: Question) -> str:
        answer = _request(f"{address}/v1/completions", body(question))
        return cast(str, json.loads(answer)["choices"][0]["text"])

    with ThreadPoolExecutor(max_workers=max(1, len(questions))) as threads:
        return dict(zip(questions, threads.map(ask, questions), strict=True))


def wait_until_ready(address: str, timeout_s: float = TIMEOUT_S) -> None:
    """Returns when a release is served. Raises NotAnswered after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            _request(f"{address}/ready")
            return
        except NotAnswered as error:
            if time.monotonic() > deadline:
                raise NotAnswered(f"not ready after {timeout_s:.0f} s: {error}") from error
        time.sleep(0.2)


def gauge(address: str, name: str) -> float:
    """One number of `/metrics`. Raises NotAnswered if it is not there."""
    for line in _request(f"{address}/metrics").splitlines():
        if line.split("{")[0].split(" ")[0] == name:
            return float(line.split()[-1])
    raise NotAnswered(f"{address}/metrics has no {name}")


@torch.inference_mode()
def ask_original(directory: Path, words: Sequence[str]) -> list[str]:
    """What the checkpoint itself answers, by transformers' own greedy generate()."""
    model = cast(Any, load(directory))  # generate() is not annotated
    answers = []
    for word in words:
        tokens = torch.tensor([encode_prompt(skills.prompt(word))])
        found = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
        )
        answers.append(decode_answer(found[0, tokens.shape[1] :].tolist()))
    return answers


def _request(url: str, content: dict[str, Any] | None = None) -> str:
    data = None if content is None else json.dumps(content).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return cast(bytes, response.read()).decode()
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        raise NotAnswered(f"{url}: {error.code}: {said}") from error
    except OSError as error:
        raise NotAnswered(f"{url}: {error}") from error
