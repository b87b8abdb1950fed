"""Runs an original on its data, and compares other models with it. Loads no model.

Computes everything like `consolidation.statistics.scoring`: in float32, each window by one thread,
so that results do not depend on how many threads there are. All windows go through a model at
once; greedy answers take as many walks more as they have tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import torch

from consolidation.evaluation.data import MAX_ANSWER, Item, ModelData
from consolidation.evaluation.measures import ModelScore
from consolidation.statistics.positions import Positions
from consolidation.statistics.routing import Routes, agreement
from consolidation.statistics.scoring import each_window, loss, scoring_work
from consolidation.statistics.text import Encoder
from consolidation.statistics.windows import Window
from consolidation.walk.scratch import Scratch
from consolidation.walk.streamed import StreamedModel

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """One window, or one question. `routed` says which tokens have the same top-1 expert, by layer.

    `begun`: of a question, its answer as far as it is known.
    """

    positions: Positions
    loss: float
    agreeing: int
    predicted: int
    routed: tuple[torch.Tensor, ...] = ()
    begun: Tokens = ()


class Reference:
    """Runs an original on its data, and compares others with it.

    Runs `original` at once. `score` then runs any model of the same shape. Must be closed.
    """

    def __init__(self, name: str, original: StreamedModel, data: ModelData) -> None:
        self._name = name
        self._task = data.task
        encoder = Encoder(data.directory, data.vocab_size) if data.task else None
        self._answers = _Answers(encoder, data.stops)
        answers = self._answers.greedy(original, data.task, [()] * len(data.task))
        self._right = [self._answers.right(*pair) for pair in zip(answers, data.task, strict=True)]
        questions = [item.window(tokens) for item, tokens in zip(data.task, answers, strict=True)]
        self._windows = [*questions, *data.text]
        self._kept = Scratch()
        self._routes = Routes(len(self._windows), len(original.experts))

        def see(number: int, logits: torch.Tensor) -> float:
            self._kept.put(number, logits)
            return loss(logits, self._windows[number])

        losses = each_window(original, self._windows, see, self._routes.watch)
        self._losses = list(losses)[len(questions) :]

    def score(self, model: StreamedModel) -> ModelScore:
        """Run `model` on the same data, and measure how far it is from the original."""
        routes = Routes(len(self._windows), len(model.experts))

        def compare(number: int, logits: torch.Tensor) -> _Found:
            before = self._kept.get(number).to(logits.device)
            routed = self._routes.same(routes, number)
            find = self._question if number < len(self._task) else self._text
            found = find(self._windows[number], before, logits)
            return replace(found, routed=routed)

        found = list(each_window(model, self._windows, compare, routes.watch))
        task, text = found[: len(self._task)], found[len(self._task) :]
        answers = self._answers.greedy(model, self._task, [one.begun for one in task])
        right = [self._answers.right(*pair) for pair in zip(answers, self._task, strict=True)]
        kinds = [found for found in (task, text) if found]
        figures = [Positions.joined([one.positions for one in found]).figures() for found in kinds]
        layers = zip(*(agreement([one.routed for one in found]) for found in kinds), strict=True)
        return ModelScore(
            model=self._name,
            kl=_mean([one.kl for one in figures]),
            kl_99=_mean([one.kl_99 for one in figures]),
            kl_999=_mean([one.kl_999 for one in figures]),
            rms_dp=_mean([one.rms_dp for one in figures]),
            perplexity=_perplexity([one.loss for one in text], text),
            perplexity_original=_perplexity(self._losses, text),
            accuracy=_mean(right) if task else None,
            accuracy_original=_mean(self._right) if task else None,
            token_agreement=_mean([_agreement(found) for found in kinds]),
            router_agreement=tuple(_mean(layer) for layer in layers),
            tokens=sum(len(one.positions) for found in kinds for one in found),
        )

    def _question(self, window: Window, before: torch.Tensor, logits: torch.Tensor) -> _Found:
        """Scores the answer's first token; compares greedy tokens along the original's answer."""
        wanted, chosen = window.tokens[window.first_scored :], logits.argmax(-1).tolist()
        same = 0
        while same < len(wanted) and wanted[same] == chosen[same]:
            same += 1
        return _Found(
            positions=Positions.between(before[:1], logits[:1], wanted[:1]),
            loss=0.0,
            agreeing=int((before.argmax(-1) == logits.argmax(-1)).sum()),
            predicted=len(wanted),
            # Up to the first token that differs; the rest must be generated.
            begun=wanted if same == len(wanted) else (*wanted[:same], chosen[same]),
        )

    def _text(self, window: Window, before: torch.Tensor, logits: torch.Tensor) -> _Found:
        positions = Positions.between(before, logits, window.tokens[window.first_scored :])
        return _Found(
            positions=positions,
            loss=loss(logits, window),
            agreeing=int(positions.same.sum()),
            predicted=len(logits),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kept.__exit__(kind, error, trace)


def reference_work(data: ModelData, models: int = 1) -> float:
    """What a `Reference` does at most that scores so many models, as `walk/course.py` counts it."""
    prompts = [item.window(()) for item in data.task]
    answers = MAX_ANSWER * scoring_work(prompts) if prompts else 0
    return answers + (1 + models) * scoring_work([*prompts, *data.text])


class _Answers:
    """Greedy answers of at most `MAX_ANSWER` tokens, and whether their first word is right.

    encoder: None where there is no question.
    """

    def __init__(self, encoder: Encoder | None, stops: Sequence[int]) -> None:
        self._encoder = encoder
        self._stops = frozenset(stops)

    def greedy(
        self, model: StreamedModel, items: Sequence[Item], begun: Sequence[Tokens]
    ) -> list[Tokens]:
        """The answers that begin with `begun`, including the tokens that end them."""
        answers = list(begun)
        while unfinished := [i for i, tokens in enumerate(answers) if not self._is_whole(tokens)]:
            # One more token, whichever, so that the logits before it are returned.
            windows = [items[i].window((*answers[i], 0)) for i in unfinished]
            chosen = each_window(model, windows, lambda _, logits: int(logits[-1].argmax()))
            for i, token in zip(unfinished, chosen, strict=True):
                answers[i] = (*answers[i], token)
        return answers

    def right(self, tokens: Tokens, item: Item) -> bool:
        """Whether the first word of an answer is the task's word."""
        assert self._encoder is not None
        kept = [token for token in tokens if token not in self._stops]
        return self._encoder.decode(kept).split()[:1] == [item.word]

    def _is_whole(self, tokens: Tokens) -> bool:
        return len(tokens) >= MAX_ANSWER or (bool(tokens) and tokens[-1] in self._stops)


def _agreement(found: Sequence[_Found]) -> float:
    return sum(one.agreeing for one in found) / sum(one.predicted for one in found)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _perplexity(losses: Sequence[float], found: Sequence[_Found]) -> float | None:
    if not found:
        return None
    loss = math.fsum(losses) / sum(len(one.positions) for one in found)
    return math.exp(loss) if loss < 700 else math.inf
