"""What to ask, of which model and when: arrivals, lengths, prompts. Pure; asks nobody."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice, takewhile
from random import Random

from serve_app.errors import ConfigError

FIRST_TOKEN = 3
"""Prompts use ids from here on, because lower ones are special in most vocabularies."""
LONG_S = 60.0
"""Arrivals over a shorter time say little about waiting."""
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""The columns of a trace, as Azure publishes them."""


@dataclass(frozen=True, slots=True)
class TimedJob:
    """One request. at_s: when it is due, in seconds from the beginning of the run."""

    at_s: float
    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class RequestArrival:
    """When a request is due, and how long its prompt and its answer are, in tokens."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """A number of tokens from `low` to `high`, all equally likely."""

    low: int
    high: int

    def draw(self, generator: Random) -> int:
        return generator.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Asked:
    """A model that may be asked.

    context: the most tokens for prompt and answer.   vocabulary: its number of tokens.
    """

    name: str
    context: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class JobList:
    """Jobs in the order in which they are due. num_cut: how many were cut to fit the context."""

    jobs: tuple[TimedJob, ...]
    num_cut: int


def poisson(
    rate: float,
    *,
    prompt: Lengths,
    answer: Lengths,
    seed: int,
    duration_s: float | None = None,
    num: int | None = None,
) -> list[RequestArrival]:
    """Arrivals of a Poisson process with `rate` per second, until either limit is reached.

    If each arrival goes to a random model, each model's arrivals are a Poisson process too. The
    same seed at another rate gives the same arrivals on another time scale.
    """
    assert num is not None or duration_s is not None, "a Poisson process needs a limit"
    times, lengths = Random(f"{seed} times"), Random(f"{seed} lengths")

    def process() -> Iterable[RequestArrival]:
        at = 0.0
        while True:
            at += times.expovariate(1.0)
            yield RequestArrival(at / rate, prompt.draw(lengths), answer.draw(lengths))

    return _bounded(process(), duration_s, num)


def parse_trace(
    lines: Iterable[str],
    *,
    speed: float = 1.0,
    duration_s: float | None = None,
    num: int | None = None,
) -> list[RequestArrival]:
    """Arrivals of a trace, counted from its first, `speed` times as fast as recorded.

    lines: of a CSV file with the columns TIMESTAMP, ContextTokens and GeneratedTokens.
    Raises: ConfigError, with the number of the line, if the file is not such a trace.
    """
    reader = csv.DictReader(lines)
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise ConfigError(f"the trace has no column {missing[0]!r}")
    found = []
    for row in reader:
        try:
            moment = datetime.fromisoformat(row["TIMESTAMP"])
            prompt, answer = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            found.append((moment, max(1, prompt), max(1, answer)))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"line {reader.line_num} of the trace: {error}") from error
    if not found:
        raise ConfigError("the trace has no rows")
    first = min(moment for moment, _, _ in found)
    arrivals = [RequestArrival((at - first).total_seconds() / speed, p, a) for at, p, a in found]
    return _bounded(sorted(arrivals, key=lambda arrival: arrival.at_s), duration_s, num)


def _bounded(
    arrivals: Iterable[RequestArrival], duration_s: float | None, num: int | None
) -> list[RequestArrival]:
    if duration_s is not None:
        arrivals = takewhile(lambda arrival: arrival.at_s < duration_s, arrivals)
    return list(islice(arrivals, num))


def popularity(num_models: int, skew: float) -> list[float]:
    """The share of requests of each model, most popular first: Zipf's law, p_i ~ 1 / i^skew."""
    weights = [rank**-skew for rank in range(1, num_models + 1)]
    return [weight / sum(weights) for weight in weights]


def make_jobs(
    arrivals: Iterable[RequestArrival], models: Sequence[Asked], *, skew: float = 0.0, seed: int = 0
) -> JobList:
    """A job for each arrival, with a random model, the first being the most popular, and prompt.

    If prompt and answer exceed the model's context, the prompt is cut, but not below half of the
    context, and then the answer.
    """
    choices, tokens = Random(f"{seed} models"), Random(f"{seed} prompts")
    shares = popularity(len(models), skew)
    jobs, num_cut = [], 0
    for number, arrival in enumerate(arrivals):
        model = choices.choices(models, shares)[0]
        prompt, answer = _cut(arrival.prompt_tokens, arrival.answer_tokens, model.context)
        num_cut += (prompt, answer) != (arrival.prompt_tokens, arrival.answer_tokens)
        ids = tuple(tokens.randrange(FIRST_TOKEN, model.vocabulary) for _ in range(prompt))
        jobs.append(TimedJob(arrival.at_s, model.name, ids, answer, seed + number))
    return JobList(tuple(jobs), num_cut)


def _cut(prompt: int, answer: int, context: int) -> tuple[int, int]:
    """Lengths that fit a context of two tokens or more."""
    prompt = min(prompt, max(context - answer, context // 2))
    return prompt, min(answer, context - prompt)


@dataclass(frozen=True, slots=True)
class Workload:
    """Asks for answers of `answer` tokens to prompts of `prompt` tokens, models by popularity."""

    prompt: Lengths
    answer: Lengths
    skew: float
    seed: int

    def arrivals(self, rate: float, duration_s: float) -> list[RequestArrival]:
        return poisson(
            rate, prompt=self.prompt, answer=self.answer, seed=self.seed, duration_s=duration_s
        )

    def backlog(self, num: int) -> list[RequestArrival]:
        """`num` arrivals, all due at once."""
        found = poisson(1.0, prompt=self.prompt, answer=self.answer, seed=self.seed + 1, num=num)
        return [replace(arrival, at_s=0.0) for arrival in found]

    def jobs(self, arrivals: Sequence[RequestArrival], asked: Sequence[Asked]) -> JobList:
        return make_jobs(arrivals, asked, skew=self.skew, seed=self.seed)
