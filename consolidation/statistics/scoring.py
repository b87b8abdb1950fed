"""Runs transformers models on windows of tokens: logits, divergence, perplexity, golden prompts.

Everything is computed in float32 on the CPU, whatever dtype is stored: rounding to a narrower
dtype would add its own noise to the comparison. One thread computes a window, several windows at a
time, so that sums have one order: results are part of a release's digest and must not depend on
the number of threads.
"""

import gc
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import transformers
from torch.nn import functional

from consolidation.errors import Refused
from consolidation.release import Golden
from consolidation.statistics.positions import PART, Figures, Positions, divergences
from consolidation.statistics.text import Window
from representation.architecture.config import ask_for_logits_alone, context_limit

NO_READING_AHEAD = "HF_DEACTIVATE_ASYNC_LOAD"
GOLDEN_PROMPT = 16
GOLDEN_TOKENS = 16
GOLDEN_TOP = 20
COMPUTE_DTYPE = "float32"
STATEFUL_ROPE = frozenset({"dynamic", "longrope"})
"""Kinds of rope whose module keeps state by length: with these, one window at a time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Scores:
    """Over all scored tokens: sums of losses in nats, and how far the release is from the original.

    figures: None where it was not run, since it is the original.
    """

    loss_original: float
    loss_release: float
    tokens: int
    figures: Figures | None = None


class KeptLogits:
    """Logits of an original, by window, in a temporary file: they may not fit into memory.

    Several threads may read at a time, one may write.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object is
        self._spans: list[tuple[int, torch.Size]] = []

    def keep(self, logits: torch.Tensor) -> None:
        """Keep the logits of the next window, float32."""
        self._spans.append((self._file.tell(), logits.shape))
        self._file.write(logits.contiguous().numpy().tobytes())
        self._file.flush()

    def read(self, window: int) -> torch.Tensor:
        """The logits of a window."""
        start, shape = self._spans[window]
        data = os.pread(self._file.fileno(), 4 * shape.numel(), start)
        return torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' own log lines and progress bars."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextmanager
def _one_tensor_at_a_time() -> Iterator[None]:
    """Stop transformers from reading a whole checkpoint ahead in threads."""
    before = os.environ.get(NO_READING_AHEAD)
    os.environ[NO_READING_AHEAD] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_READING_AHEAD]
        else:
            os.environ[NO_READING_AHEAD] = before


def load_original(directory: Path) -> Any:
    """Load a checkpoint with transformers, in float32. Raises `Refused`."""
    gc.collect()  # a model validated before is held by cycles of its own
    try:
        with quiet_transformers(), _one_tensor_at_a_time():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                directory, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(f"{directory}: transformers cannot load it: {error}") from error
    ask_for_logits_alone(model.config)
    return model.eval()


def max_window(config: Any, limit: int) -> int:
    """The most tokens of a window: the limit, or the context length where that is less."""
    return min(limit, context_limit(config) or limit)


def one_thread_each(
    model: Any, function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result]:
    """Yield `function` of each item, in order; one thread an item, several items at a time."""
    kinds = {getattr(module, "rope_type", None) for module in model.modules()}
    num_workers = 1 if kinds & STATEFUL_ROPE else min(os.cpu_count() or 1, len(items))
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            num_workers, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            for start in range(0, len(items), num_workers):
                yield from pool.map(function, items[start : start + num_workers])
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def window_logits(model: Any, window: Window) -> torch.Tensor:
    """Logits that predict a window's scored tokens. -> (scored, V)"""
    tokens = torch.tensor([window.tokens])
    logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits[0]  # (T, V)
    return logits[window.first_scored - 1 : -1].float()


def loss(logits: torch.Tensor, window: Window) -> float:
    """Sum of negative log-likelihoods of the scored tokens. logits: (scored, V)"""
    targets = torch.tensor(window.tokens[window.first_scored :])
    parts = zip(logits.split(PART), targets.split(PART), strict=True)
    return math.fsum(
        float(functional.cross_entropy(part.double(), wanted, reduction="sum"))
        for part, wanted in parts
    )


def divergence(original: torch.Tensor, release: torch.Tensor) -> float:
    """Sum over positions of KL(original || release). Both (scored, V), logits."""
    return math.fsum(divergences(original, release).tolist())


def score_original(model: Any, windows: Sequence[Window], kept: KeptLogits | None) -> Scores:
    """Score a model against itself, and keep its logits where `kept` is given."""

    def run(window: Window) -> tuple[torch.Tensor | None, float]:
        logits = window_logits(model, window)
        return (None if kept is None else logits), loss(logits, window)

    losses = []
    for logits, window_loss in one_thread_each(model, run, windows):
        if kept is not None and logits is not None:
            kept.keep(logits)
        losses.append(window_loss)
    total = math.fsum(losses)
    num_tokens = sum(len(window.tokens) - window.first_scored for window in windows)
    return Scores(total, total, num_tokens)


def score_release(
    model: Any, windows: Sequence[Window], kept: KeptLogits, original: Scores
) -> Scores:
    """Score the model of the release against the kept logits of the original."""

    def run(item: tuple[int, Window]) -> tuple[float, Positions]:
        index, window = item
        logits = window_logits(model, window)
        tokens = window.tokens[window.first_scored :]
        return loss(logits, window), Positions.between(kept.read(index), logits, tokens)

    items = list(enumerate(windows))
    losses, positions = zip(*one_thread_each(model, run, items), strict=True)
    figures = Positions.joined(positions).figures()
    return Scores(original.loss_original, math.fsum(losses), original.tokens, figures)


def golden_of(model: Any, window: Window) -> Golden:
    """What a model generates after the first tokens of a window; no token stops it."""
    return next(one_thread_each(model, lambda first: _golden_of(model, first), [window]))


@torch.inference_mode()
def _golden_of(model: Any, window: Window) -> Golden:
    prompt = list(window.tokens[:GOLDEN_PROMPT])
    tokens: list[int] = []
    top: list[tuple[tuple[int, float], ...]] = []
    for _ in range(max_window(model.config, GOLDEN_PROMPT + GOLDEN_TOKENS) - len(prompt)):
        logits = model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0, -1]
        # A stable sort: of equal logits the lower token comes first.
        values, order = torch.sort(logits.float(), descending=True, stable=True)
        pairs = zip(order[:GOLDEN_TOP].tolist(), values[:GOLDEN_TOP].tolist(), strict=True)
        top.append(tuple(pairs))
        tokens.append(int(order[0]))
    return Golden(prompt=tuple(prompt), tokens=tuple(tokens), top=tuple(top), dtype=COMPUTE_DTYPE)


@torch.inference_mode()
def golden_logits(model: Any, golden: Golden) -> torch.Tensor:
    """Logits at the positions that predict the golden tokens. -> (tokens, V)"""
    fed = torch.tensor([[*golden.prompt, *golden.tokens]])
    logits: torch.Tensor = model(input_ids=fed, use_cache=False).logits[0]
    return logits[len(golden.prompt) - 1 : -1].float()
