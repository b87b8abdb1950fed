"""Runs a contender through the same requests in virtual time, and says how it did."""

from collections import Counter, defaultdict
from collections.abc import Sequence as Items
from dataclasses import dataclass
from statistics import fmean

from serve_app.scheduling.fairness.queue import ANSWER_PRICE, PROMPT_PRICE
from serve_app.scheduling.sequence import Sequence
from tests.scheduling.simulation.contenders import Contender
from tests.scheduling.simulation.traffic import Asked

STEP_S = 0.02
"""A step, whatever it computes: it reads the weights."""
TOKEN_S = 0.00004
LOAD_S = 0.25
"""Loads are one after another, while steps go on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """waits, tenant_waits: to the first token, in seconds, of requests and as the mean of each
    tenant's, shortest first.   tokens_per_s: of prompts and answers that were asked, until the last
    one had ended.   jain: mean over windows, of what the tenants were served that waited
    throughout; 1 is fair, and None means that no two tenants ever waited so long.
    """

    waits: list[float]
    tenant_waits: list[float]
    tokens_per_s: float
    jain: float | None
    loads_per_hour: float


def percentile(values: Items[float], share: float) -> float:
    """Of values in order."""
    return values[min(int(share * len(values)), len(values) - 1)]


class Arena:
    """One run. window_s: tenants that wait for so long are compared by what they were served."""

    def __init__(
        self, contender: Contender, asked: Items[Asked], *, window_s: float = 20.0
    ) -> None:
        self._contender = contender
        self._to_come = [(f"s{number}", one) for number, one in enumerate(asked)][::-1]
        self._asked = dict(self._to_come)
        self._waits: dict[str, float] = {}
        self._copies: list[tuple[float, str]] = []
        self._now = 0.0
        self._window = Window(window_s)

    def run(self) -> Outcome:
        left = len(self._to_come)
        while left:
            self._arrive()
            loads, num_tokens = self._contender.plan(self._now)
            for backbone in loads:
                begins = max([self._now, *(at for at, _ in self._copies)])
                self._copies.append((begins + LOAD_S, backbone))
            if not num_tokens:
                self._now = self._next_event()
                continue
            self._now += STEP_S + TOKEN_S * num_tokens
            for progress in self._contender.commit(self._now):
                self._note(progress.sequence)
                left -= progress.is_last
            self._window.close_if_over(self._now)
        tokens = sum(one.prompt + one.answer for one in self._asked.values())
        return Outcome(
            sorted(self._waits.values()),
            self._tenant_waits(),
            tokens / self._now,
            self._window.jain,
            self._contender.num_loads / self._now * 3600,
        )

    def _tenant_waits(self) -> list[float]:
        by_tenant: dict[str, list[float]] = {}
        for name, wait in self._waits.items():
            by_tenant.setdefault(self._asked[name].tenant, []).append(wait)
        return sorted(fmean(waits) for waits in by_tenant.values())

    def _arrive(self) -> None:
        while self._copies and self._copies[0][0] <= self._now:
            self._contender.loaded(self._copies.pop(0)[1])
        while self._to_come and self._to_come[-1][1].at <= self._now:
            name, one = self._to_come.pop()
            prompt = (len(self._asked) + int(name[1:]),) * one.prompt
            model = ("r", one.model)
            sequence = Sequence(
                name, model, one.model, prompt, one.answer, tenant=one.tenant, arrival=one.at
            )
            self._contender.add(sequence, self._now)
            self._window.waits(one.tenant)

    def _next_event(self) -> float:
        events = [at for at, _ in self._copies[:1]] + [one.at for _, one in self._to_come[-1:]]
        assert events, "there is work, and nothing will ever happen"
        return min(events)

    def _note(self, name: str) -> None:
        one = self._asked[name]
        price = ANSWER_PRICE
        if name not in self._waits:
            self._waits[name] = self._now - one.at
            self._window.begins(one.tenant)
            price += PROMPT_PRICE * one.prompt
        self._window.serve(one.tenant, price)


class Window:
    """What the tenants were served, among those that wait from its beginning to its end."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._indices: list[float] = []
        self._waiting: Counter[str] = Counter()
        self._served: defaultdict[str, float] = defaultdict(float)
        self._throughout: set[str] = set()
        self._since = 0.0

    @property
    def jain(self) -> float | None:
        return fmean(self._indices) if self._indices else None

    def waits(self, tenant: str) -> None:
        self._waiting[tenant] += 1

    def begins(self, tenant: str) -> None:
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            self._throughout.discard(tenant)

    def serve(self, tenant: str, price: float) -> None:
        self._served[tenant] += price

    def close_if_over(self, now: float) -> None:
        if now - self._since < self._seconds:
            return
        served = [self._served[tenant] for tenant in self._throughout]
        if len(served) > 1 and any(served):
            squares = len(served) * sum(each**2 for each in served)
            self._indices.append(sum(served) ** 2 / squares)
        self._since, self._served = now, defaultdict(float)
        self._throughout = {tenant for tenant, count in self._waiting.items() if count}
