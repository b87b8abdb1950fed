"""llama.cpp's server for each model, in one process: the arms `llama.cpp…`.

By PyPI's `xllamacpp`, which calls llama.cpp's own server without HTTP. The extra `bench` has it;
`why_not_here` says how to install it.
"""

import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from serve_app.bench.arms.arm import Ground
from serve_app.bench.requests.open_loop import Notes
from serve_app.bench.requests.workload import TimedJob
from serve_app.engine.source import ReleaseSource

PACKAGES = ("gguf", "xllamacpp")
CONTEXT_STEP = 256
"""llama.cpp rounds the context of a sequence up to a multiple of this."""
KV_BYTES = 2
"""Of a number in its cache of keys and values: float16."""


def why_not_here(ground: Ground, precision: str) -> str | None:
    """Why llama.cpp cannot serve a ground's models here, in words; None if it can."""
    from serve_app.bench.arms import gguf_file

    if any(find_spec(package) is None for package in PACKAGES):
        return f"needs {' and '.join(PACKAGES)}: pip install 'expertpool[bench]'"
    if ground.engine.device != "cpu":
        return f"runs on the CPU only, and the other arms on {ground.engine.device}"
    models = ground.source.open().models
    why = [gguf_file.why_not(models[name].config, precision) for name in ground.models]
    return next((words for words in why if words is not None), None)


@dataclass(frozen=True, slots=True)
class LlamaCppSpec:
    """A process with a server for each model: see `process.Opens`.

    precision: one of `gguf_file.PRECISIONS`.   threads: of each server.
    """

    name: str
    ground: Ground
    precision: str
    threads: int
    variables: Mapping[str, str] = field(default_factory=dict)
    is_client: bool = False

    @property
    def models(self) -> tuple[str, ...]:
        return self.ground.models

    def open(self) -> "LlamaCpp":
        from serve_app.bench.arms.unmerged import Unmerged

        source = Unmerged(self.ground.source.open(), self.ground.models)
        return LlamaCpp(self.ground, source, self.precision, self.threads)


class LlamaCpp:
    """A server for each model, and a thread for each request that waits for its answer."""

    def __init__(self, ground: Ground, source: ReleaseSource, precision: str, threads: int) -> None:
        """source: a release with nothing merged.

        Its models are written to a temporary folder, which is gone once the servers have mapped
        the files. Each has its share of the sequences, and of the tokens of keys and values.
        """
        from serve_app.bench.arms.gguf_file import write_gguf

        self._open: dict[int, Notes] = {}
        self._servers: dict[str, Any] = {}
        self._device_bytes = 0
        at_once = max(1, ground.engine.max_sequences // len(ground.models))
        context = -(-ground.sequence_tokens // CONTEXT_STEP) * CONTEXT_STEP
        with tempfile.TemporaryDirectory(prefix="expertpool-gguf-") as folder:
            for number, name in enumerate(ground.models):
                path = Path(folder) / f"{number}.gguf"
                write_gguf(path, source, name, precision)
                self._servers[name] = _server(path, at_once, context, threads)
                kept = at_once * context * kv_bytes_per_token(source.models[name].config)
                self._device_bytes += path.stat().st_size + kept

    @property
    def device_bytes(self) -> int:
        """Of the files, and of keys and values. What a step needs meanwhile is not known."""
        return self._device_bytes

    @property
    def facts(self) -> dict[str, float]:
        return {}

    def submit(self, index: int, job: TimedJob, notes: Notes) -> None:
        self._open[index] = notes
        asking = threading.Thread(target=self._ask, args=(index, job, notes), daemon=True)
        asking.start()

    def close(self) -> None:
        """Answers on the way are not waited for; the process ends with this arm."""
        for index, notes in list(self._open.items()):
            notes.ended(index, "the arm was closed")

    def _ask(self, index: int, job: TimedJob, notes: Notes) -> None:
        began = time.monotonic()
        try:
            answer = self._servers[job.model].handle_completions(body(job))
            note_answer(index, job, answer, notes, began=began, ended=time.monotonic())
        except Exception as error:  # noqa: BLE001 - whatever it was, the job is lost
            notes.ended(index, f"{type(error).__name__}: {error}")
        self._open.pop(index, None)


def _server(path: Path, at_once: int, context: int, threads: int) -> Any:
    """As llama.cpp is by default, but without any kind of cache for prompts.

    context: tokens of each sequence.
    """
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_parallel = at_once
    parameters.n_ctx = at_once * context
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.fit_params = False  # Else it may change what was set here.
    parameters.cache_ram_mib = 0
    parameters.verbosity = 0
    return xllamacpp.Server(parameters)


def body(job: TimedJob) -> dict[str, Any]:
    """A job as a request to llama.cpp: greedy, and ended only by its length."""
    return {
        "prompt": list(job.prompt),
        "max_tokens": job.max_tokens,
        "temperature": 0,
        "top_k": 1,
        "seed": job.seed,
        "ignore_eos": True,
        "cache_prompt": False,
    }


def note_answer(
    index: int,
    job: TimedJob,
    answer: Mapping[str, Any],
    notes: Notes,
    *,
    began: float,
    ended: float,
) -> None:
    """Note what llama.cpp answered. began, ended: when it was asked and had answered.

    It says itself how long it took for the prompt, and from the first token to the last.
    """
    if "usage" not in answer:
        notes.ended(index, f"llama.cpp: {answer.get('error', answer)}")
        return
    num_tokens, timings = answer["usage"]["completion_tokens"], answer["timings"]
    first = ended - timings["predicted_ms"] / 1e3
    notes.queued(index, max(0.0, first - timings["prompt_ms"] / 1e3 - began))
    words = answer["choices"][0]["text"].split()  # The file's vocabulary is numbers.
    notes.answered(index, first=first, last=ended, tokens=[int(word) for word in words])
    notes.counted(index, num_tokens)
    short = num_tokens != job.max_tokens
    notes.ended(index, f"{num_tokens} of {job.max_tokens} tokens came" if short else None)


def kv_bytes_per_token(fields: Mapping[str, Any]) -> int:
    """Bytes of the keys and values of a token in llama.cpp's cache, over all layers."""
    from representation.architecture.config import config_of
    from serve_app.bench.arms.gguf_file import head_dim

    config = config_of(fields)
    heads: int = config.num_hidden_layers * config.num_key_value_heads
    return 2 * heads * head_dim(config) * KV_BYTES
