"""What is asked, by whom and when: made up, or with arrivals and lengths of a trace."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from random import Random

TRACES = Path(
    os.environ.get("EXPERTPOOL_TRACES", Path(__file__).parents[4] / "shared" / "data" / "traces")
)
"""Azure's published traces of 2023, as CSV: time, tokens of the prompt, tokens of the answer."""
NUM_TENANTS = 1_000
NUM_MODELS = 200
LONGEST_PROMPT = 4_000
LONGEST_ANSWER = 800


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. at: virtual seconds from the start; lengths in tokens."""

    at: float
    tenant: str
    model: str
    prompt: int
    answer: int


class Callers:
    """Draws who asks. Few tenants ask much and few models are asked much; each tenant has a few."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._tenants = _skewed(NUM_TENANTS)
        models = _skewed(NUM_MODELS)
        self._models = [
            rng.choices(range(NUM_MODELS), cum_weights=models, k=rng.randint(1, 4))
            for _ in range(NUM_TENANTS)
        ]

    def draw(self) -> tuple[str, str]:
        """A tenant and one of its models."""
        tenant = self._rng.choices(range(NUM_TENANTS), cum_weights=self._tenants)[0]
        return f"t{tenant}", f"m{self._rng.choice(self._models[tenant])}"


def made_up(count: int, per_second: float, seed: int = 1) -> list[Asked]:
    """Bursts: for some seconds four times as much comes as for others.

    Every tenth request is one of a flood by one tenant.
    """
    rng = Random(seed)
    callers, at, asked = Callers(rng), 0.0, []
    for number in range(count):
        is_burst = int(at / 20) % 3 == 0
        at += rng.expovariate(per_second * (2.0 if is_burst else 0.5))
        tenant, model = ("flood", f"m{number // 10 % 10}") if number % 10 == 0 else callers.draw()
        prompt = min(int(rng.lognormvariate(5.5, 1.0)) + 1, LONGEST_PROMPT)
        answer = min(int(rng.lognormvariate(4.0, 1.0)) + 1, LONGEST_ANSWER)
        asked.append(Asked(at, tenant, model, prompt, answer))
    return asked


def traced(path: Path, count: int, per_second: float, seed: int = 1) -> list[Asked]:
    """The first requests of a trace, whose time is stretched so that as many come on average."""
    rows = [row for row, _ in zip(_rows(path), range(count), strict=False)]
    begun, ended = rows[0][0], rows[-1][0]
    stretch = len(rows) / per_second / (ended - begun)
    callers = Callers(Random(seed))
    return [
        Asked(
            (at - begun) * stretch,
            *callers.draw(),
            min(max(prompt, 1), LONGEST_PROMPT),
            min(max(answer, 1), LONGEST_ANSWER),
        )
        for at, prompt, answer in rows
    ]


def _rows(path: Path) -> Iterator[tuple[float, int, int]]:
    """Seconds, tokens of the prompt and of the answer."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            when = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
            yield when, int(row["ContextTokens"]), int(row["GeneratedTokens"])


def _skewed(count: int) -> list[float]:
    """Zipf's law, as cumulative weights."""
    return list(accumulate(1 / (rank + 1) for rank in range(count)))
