"""Prints the whole comparison, with the arrivals of traces where they are, and planning times."""

import random
import time
from collections.abc import Iterator

from serve_app.scheduling.sequence import Sequence
from tests.scheduling.simulation.arena import Arena, Outcome, percentile
from tests.scheduling.simulation.contenders import (
    FirstComeFirstServed,
    GroupedByModel,
    Ours,
)
from tests.scheduling.simulation.least_wait import least_wait
from tests.scheduling.simulation.traffic import (
    NUM_MODELS,
    NUM_TENANTS,
    TRACES,
    Asked,
    made_up,
    traced,
)

_ROW = "{:<9} {:<21} {:>7} {:>7} {:>8} {:>9} {:>9} {:>6} {:>6} {:>9}"
_NOTE = "wanted: of FCFS at most 0.50, lost at most 5.0%. (any order): no order has less than that"


def compare(asked: list[Asked]) -> dict[str, Outcome]:
    """What becomes of the same requests under each of the three."""
    contenders = (Ours(), FirstComeFirstServed(), GroupedByModel())
    return {type(each).__name__: Arena(each, asked).run() for each in contenders}


def lost_to_fairness(outcomes: dict[str, Outcome]) -> float:
    """The share of the tokens per second that the better of the other two has."""
    ours, *others = (outcome.tokens_per_s for outcome in outcomes.values())
    return max(0.0, 1 - ours / max(others))


def all_traffic() -> Iterator[tuple[str, list[Asked]]]:
    yield "made up", made_up(6_000, 12.5)
    for name, per_second in (("conv", 6.0), ("code", 3.0)):
        path = TRACES / f"azure_llm_2023_{name}.csv"
        if path.exists():
            yield name, traced(path, 3_000, per_second)
        else:
            print(f"{name}: there is no {path}")


def planning_ms(steps: int = 1_500) -> list[float]:
    """Processor time of planning, with 1,000 waiting requests of 1,000 tenants, shortest first."""
    rng, scheduler, number = random.Random(1), Ours().scheduler, 0
    times: list[float] = []
    for step in range(steps):
        while scheduler.num_waiting < NUM_TENANTS:
            tenant = number if number < NUM_TENANTS else rng.randrange(NUM_TENANTS)
            model = f"m{rng.randrange(NUM_MODELS)}"
            prompt = tuple(rng.randrange(99) for _ in range(rng.randrange(20, 200)))
            sequence = Sequence(
                f"s{number}", ("r", model), model, prompt, rng.randint(1, 200), tenant=f"t{tenant}"
            )
            scheduler.add(sequence, step * 0.03)
            number += 1
        begun = time.process_time()
        plan = scheduler.schedule(step * 0.03)
        times.append((time.process_time() - begun) * 1e3)
        for load in plan.loads:
            scheduler.loaded(load.backbone)
        scheduler.commit(plan, {c.sequence: 1 for c in plan.chunks if c.samples}, step * 0.03)
    return sorted(times)


def main() -> None:
    titles = ("p50 s", "p99 s", "of FCFS", "tenants'", "tokens/s", "lost", "Jain", "loads/h")
    print(_ROW.format("traffic", "scheduler", *titles))
    for traffic, asked in all_traffic():
        outcomes = compare(asked)
        fcfs = percentile(outcomes["FirstComeFirstServed"].waits, 0.99)
        for name, outcome in outcomes.items():
            p99 = percentile(outcome.waits, 0.99)
            figures = (
                f"{percentile(outcome.waits, 0.5):.2f}",
                f"{p99:.2f}",
                f"{p99 / fcfs:.2f}",
                f"{percentile(outcome.tenant_waits, 0.99):.2f}",
                f"{outcome.tokens_per_s:,.0f}",
                f"{lost_to_fairness(outcomes):.1%}" if name == "Ours" else "",
                "" if outcome.jain is None else f"{outcome.jain:.2f}",
                f"{outcome.loads_per_hour:,.0f}",
            )
            print(_ROW.format(traffic, name, *figures))
        least = least_wait(asked, 0.99)
        none = [""] * 5
        print(_ROW.format(traffic, "(any order)", "", f"{least:.2f}", f"{least / fcfs:.2f}", *none))
    print(_NOTE)
    times = planning_ms()
    median, p99 = percentile(times, 0.5), percentile(times, 0.99)
    print(f"planning a step, 1,000 tenants waiting: median {median:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    main()
