"""Runs an original on its data, and compares other models with it. Loads no model.

Computes everything like `consolidation.statistics.scoring`: in float32, each window by one thread,
so that results do not depend on how many threads there are.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from consolidation.evaluation.data import MAX_ANSWER, Item, ModelData
from consolidation.evaluation.measures import ModelScore
from consolidation.evaluation.routing import RouterWatch
from consolidation.statistics.positions import Positions
from consolidation.statistics.scoring import (
    KeptLogits,
    loss,
    one_thread_each,
    window_logits,
)
from consolidation.statistics.text import Encoder, Window

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Found:
    """One window, or one question. `routed` counts tokens with the same top-1 expert, by layer."""

    positions: Positions
    loss: float
    agreeing: int
    predicted: int
    routed: tuple[int, ...]
    tokens: int
    right: bool = False


@dataclass(slots=True)
class _Seen:
    """What the original did on the windows of one kind, in order. Its logits are in `kept`."""

    windows: list[Window] = field(default_factory=list)
    routes: list[torch.Tensor] = field(default_factory=list)  # (layers, T) each
    losses: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    kept: KeptLogits = field(default_factory=KeptLogits)


class Reference:
    """Runs an original on its data, and compares others with it.

    Runs `original` at once. `score` then runs any model of the same shape, which may be the same
    object with other experts in it. `modules` are its experts modules, in order. Must be closed.
    """

    def __init__(self, name: str, original: Any, modules: Sequence[str], data: ModelData) -> None:
        self._name = name
        self._modules = tuple(modules)
        self._data = data
        self._task, self._text = _Seen(), _Seen()
        encoder = Encoder(data.directory, data.vocab_size) if data.task else None
        self._answers = None if encoder is None else _Answers(encoder, data.stops)
        with RouterWatch(original, self._modules) as watch:
            self._see_task(original, watch)
            self._see_text(original, watch)

    def _see_task(self, model: Any, watch: RouterWatch) -> None:
        answers = self._answers
        if answers is None:
            return

        def run(item: Item) -> tuple[Window, torch.Tensor, torch.Tensor, bool]:
            tokens = answers.greedy(model, item.prompt, ())
            window = Window((*item.prompt, *tokens), len(item.prompt))
            return window, *_run(model, window, watch), answers.right(tokens, item)

        for window, logits, routes, right in one_thread_each(model, run, self._data.task):
            self._task.windows.append(window)
            self._task.kept.keep(logits)
            self._task.routes.append(routes)
            self._task.right.append(right)

    def _see_text(self, model: Any, watch: RouterWatch) -> None:
        def run(window: Window) -> tuple[Window, torch.Tensor, torch.Tensor]:
            return window, *_run(model, window, watch)

        if not self._data.text:
            return
        for window, logits, routes in one_thread_each(model, run, self._data.text):
            self._text.windows.append(window)
            self._text.kept.keep(logits)
            self._text.routes.append(routes)
            self._text.losses.append(loss(logits, window))

    def score(self, model: Any) -> ModelScore:
        """Run `model` on the same data, and measure how far it is from the original."""
        with RouterWatch(model, self._modules) as watch:
            task = self._each(model, self._task, lambda i: self._question(model, i, watch))
            text = self._each(model, self._text, lambda i: self._window(model, i, watch))
        kinds = [found for found in (task, text) if found]
        figures = [Positions.joined([one.positions for one in found]).figures() for found in kinds]
        layers = zip(*(_routing(found) for found in kinds), strict=True)
        return ModelScore(
            model=self._name,
            kl=_mean([one.kl for one in figures]),
            kl_99=_mean([one.kl_99 for one in figures]),
            kl_999=_mean([one.kl_999 for one in figures]),
            rms_dp=_mean([one.rms_dp for one in figures]),
            perplexity=_perplexity([one.loss for one in text], text),
            perplexity_original=_perplexity(self._text.losses, text),
            accuracy=_mean([one.right for one in task]) if task else None,
            accuracy_original=_mean(self._task.right) if task else None,
            token_agreement=_mean([_agreement(found) for found in kinds]),
            router_agreement=tuple(_mean(layer) for layer in layers),
            tokens=sum(len(one.positions) for found in kinds for one in found),
        )

    def _each(self, model: Any, seen: _Seen, run: Callable[[int], _Found]) -> list[_Found]:
        indices = range(len(seen.windows))
        return list(one_thread_each(model, run, indices)) if seen.windows else []

    def _question(self, model: Any, index: int, watch: RouterWatch) -> _Found:
        """Scores the answer's first token; compares greedy tokens along the original's answer."""
        if self._answers is None:
            raise AssertionError("there is no question without an answer")
        item, window = self._data.task[index], self._task.windows[index]
        logits, routes = _run(model, window, watch)
        before = self._task.kept.read(index)
        wanted, chosen = window.tokens[window.first_scored :], logits.argmax(-1).tolist()
        same = 0
        while same < len(wanted) and wanted[same] == chosen[same]:
            same += 1
        # Up to the first token that differs, the answer is known; the rest must be generated.
        tokens = wanted if same == len(wanted) else (*wanted[:same], chosen[same])
        tokens = self._answers.greedy(model, item.prompt, tokens)
        return _Found(
            positions=Positions.between(before[:1], logits[:1], wanted[:1]),
            loss=0.0,
            agreeing=int((before.argmax(-1) == logits.argmax(-1)).sum()),
            predicted=len(wanted),
            routed=_equal(self._task.routes[index], routes),
            tokens=len(window.tokens),
            right=self._answers.right(tokens, item),
        )

    def _window(self, model: Any, index: int, watch: RouterWatch) -> _Found:
        window = self._text.windows[index]
        logits, routes = _run(model, window, watch)
        before = self._text.kept.read(index)
        positions = Positions.between(before, logits, window.tokens[window.first_scored :])
        return _Found(
            positions=positions,
            loss=loss(logits, window),
            agreeing=int(positions.same.sum()),
            predicted=len(logits),
            routed=_equal(self._text.routes[index], routes),
            tokens=len(window.tokens),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for seen in (self._task, self._text):
            seen.kept.__exit__(kind, error, trace)


class _Answers:
    """Greedy answers of at most `MAX_ANSWER` tokens, and whether their first word is right."""

    def __init__(self, encoder: Encoder, stops: Sequence[int]) -> None:
        self._encoder = encoder
        self._stops = frozenset(stops)

    def greedy(self, model: Any, prompt: Sequence[int], begun: Sequence[int]) -> tuple[int, ...]:
        """The answer that begins with `begun`, including the token that ends it."""
        tokens = list(begun)
        while len(tokens) < MAX_ANSWER and not (tokens and tokens[-1] in self._stops):
            # One more token, whichever, so that the logits before it are returned.
            logits = window_logits(model, Window((*prompt, *tokens, 0), len(prompt) + len(tokens)))
            tokens.append(int(logits[0].argmax()))
        return tuple(tokens)

    def right(self, tokens: Sequence[int], item: Item) -> bool:
        """Whether the first word of an answer is the task's word."""
        kept = [token for token in tokens if token not in self._stops]
        return self._encoder.decode(kept).split()[:1] == [item.word]


def _run(model: Any, window: Window, watch: RouterWatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the scored tokens (scored, V), and the top-1 expert of every token (layers, T)."""
    with watch.watching() as seen:
        logits = window_logits(model, window)
    return logits, torch.stack(seen)


def _equal(before: torch.Tensor, after: torch.Tensor) -> tuple[int, ...]:
    return tuple((before == after).sum(-1).tolist())


def _routing(found: Sequence[_Found]) -> list[float]:
    tokens = sum(one.tokens for one in found)
    return [sum(layer) / tokens for layer in zip(*(one.routed for one in found), strict=True)]


def _agreement(found: Sequence[_Found]) -> float:
    return sum(one.agreeing for one in found) / sum(one.predicted for one in found)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _perplexity(losses: Sequence[float], found: Sequence[_Found]) -> float | None:
    if not found:
        return None
    loss = math.fsum(losses) / sum(len(one.positions) for one in found)
    return math.exp(loss) if loss < 700 else math.inf
