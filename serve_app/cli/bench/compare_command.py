"""`bench compare`: what is asked for, and what is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.bench.requests import waits
from serve_app.cli import output
from serve_app.cli.bench import asking, files, release_choice, shown
from serve_app.cli.bench.asking import (
    AnswerTokens,
    Drain,
    NumModels,
    PromptTokens,
    Rate,
    Seed,
    Skew,
)
from serve_app.cli.bench.axes import parse_choices
from serve_app.cli.bench.files import HtmlFile, JsonFile
from serve_app.cli.bench.subject_options import (
    ComputeDtype,
    MaybeDevice,
    MaybeFamily,
    MaybeRegistry,
    MaybeRelease,
    NumLayers,
    ShapeName,
    choose_device,
)
from serve_app.cli.errors import WrongUse
from serve_app.cli.options import parse_positive
from serve_app.cli.serving import Dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve_app.bench.arms.answering import ArmResult
    from serve_app.bench.arms.arm import Ground
    from serve_app.bench.requests.workload import Asked, Workload
    from serve_app.bench.result.result import Result

LOAD = 0.7
"""Share of what the pool can take, unless a rate is given."""
LONG_S = 60.0
"""Arrivals over less than this say little of waiting."""
ALL = "all"


def compare(
    arms: Annotated[
        str, typer.Option(metavar="ARM,…", help="Which arms, in this order. Default: all seven.")
    ] = ALL,
    shape: ShapeName = None,
    layers: NumLayers = None,
    models: NumModels = None,
    registry: MaybeRegistry = None,
    family: MaybeFamily = None,
    release: MaybeRelease = None,
    device: MaybeDevice = None,
    dtype: ComputeDtype = Dtype.AUTO,
    rate: Rate = None,
    load: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            parser=parse_positive,
            show_default=False,
            help=f"Rate as a share of what `pool` is measured to take. Default: {LOAD}.",
        ),
    ] = None,
    skew: Skew = 0.0,
    duration: Annotated[
        float, typer.Option(metavar="S", parser=parse_positive, help="Seconds of arrivals.")
    ] = LONG_S,
    prompt_tokens: PromptTokens = "64",
    answer_tokens: AnswerTokens = "64",
    sequences: Annotated[
        int, typer.Option(min=1, help="Sequences that the device has keys and values for.")
    ] = 32,
    seed: Seed = 0,
    drain: Drain = 600.0,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """The same requests through several ways of serving the models, one after another.

    pool, pool-unmerged, isolated, swap, separate, single, transformers. Each has the whole machine
    while its turn lasts, and the same memory for keys and values.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.arms.arm_catalogue import ARMS
    from serve_app.bench.requests.workload import Workload

    chosen_arms = list(ARMS) if arms == ALL else parse_choices(arms, tuple(ARMS), hint="--arms")
    if rate is not None and load is not None:
        raise WrongUse("the rate is either --rate, or --load times what the pool can take")
    asked_for = Workload(
        asking.parse_lengths(prompt_tokens, hint="--prompt-tokens"),
        asking.parse_lengths(answer_tokens, hint="--answer-tokens"),
        skew,
        seed,
    )
    subject = release_choice.published(registry, family, release, shape=shape, layers=layers)
    chosen = choose_device(device)
    found = asking.target(
        subject, shape=shape, layers=layers, models=models, dtype=dtype.value, device=chosen
    )
    ground, asked = _ground(found, asked_for, chosen, dtype.value, sequences)
    order = _Order(chosen_arms, rate, load or LOAD, duration, drain)
    settings = {
        **found.settings,
        "models": list(ground.models),
        "dtype": ground.dtype,
        "kv_tokens": ground.kv_tokens,
        "sequences": sequences,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "skew": skew,
        "seed": seed,
        "duration_s": duration,
        "drain_s": drain,
    }
    result = _measured(ground, asked, asked_for, order, settings)
    _print(result)
    files.write(result, json_file, html_file)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is done. rate: requests a second; None for `load` times what the pool can take."""

    arms: Sequence[str]
    rate: float | None
    load: float
    duration_s: float
    drain_s: float


def _ground(
    found: asking.Target, load: Workload, device: str, dtype: str, sequences: int
) -> tuple[Ground, list[Asked]]:
    """What all arms stand on, and the models as they can be asked in each.

    Raises: DoesNotFit, Unsupported; WrongUse where an isolated process could hold no request.
    """
    from serve_app.bench.arms.arm import Ground
    from serve_app.engine.memory import Limits
    from serve_app.engine.unit_bytes import BLOCK_SIZE

    longest = load.prompt.high + load.answer.high
    kv_tokens = sequences * -(-longest // BLOCK_SIZE) * BLOCK_SIZE
    plan = found.plan(device, dtype, kv_tokens)
    least = kv_tokens // len(found.models)
    if least < longest:
        raise WrongUse(
            f"--sequences {sequences}: {kv_tokens} tokens of keys and values, divided between "
            f"{len(found.models)} isolated models, hold no request of {longest}"
        )
    ground = Ground(
        found.spec,
        found.models,
        device,
        plan.dtype,
        kv_tokens,
        Limits(max_sequences=sequences),
        plan.device_memory,
    )
    return ground, found.asked(least)


def _measured(
    ground: Ground, asked: Sequence[Asked], load: Workload, order: _Order, settings: dict[str, Any]
) -> Result:
    from consolidation.run.executor import Progress
    from serve_app.bench.compare.compare import capacity, compare
    from serve_app.bench.result.environment import environment

    found = environment(ground.device)
    with output.progress() as show:

        def tell(stage: str, done: int, total: int) -> None:
            show(Progress(stage, done, total))

        facts: dict[str, Any] = {}
        rate = order.rate
        if rate is None:
            facts["capacity"] = capacity(ground, load, asked, on_progress=tell)
            facts["load"] = order.load
            rate = order.load * facts["capacity"]
        made = load.jobs(load.arrivals(rate, order.duration_s), asked)
        if not made.jobs:
            raise WrongUse(f"no request arrives in {order.duration_s:g} s at {rate:.3g} a second")
        answered = compare(order.arms, ground, made.jobs, drain_s=order.drain_s, on_progress=tell)
    facts |= {"rate": rate, "requests": len(made.jobs), "num_cut": made.num_cut}
    return _result(answered, facts, settings, found)


def _result(
    answered: Sequence[ArmResult], facts: dict[str, Any], settings: dict[str, Any], found: Any
) -> Result:
    from serve_app.bench.arms.arm_catalogue import ARMS, has_mps
    from serve_app.bench.compare.compare import ratios
    from serve_app.bench.result.result import Result

    rows = [one.to_json() | {"what": ARMS[one.name]} for one in answered]
    facts["ratios"] = ratios(rows)
    if found.cuda is not None:
        facts["multiprocessors_divided"] = has_mps()
    facts["arrivals_are_short"] = settings["duration_s"] < LONG_S
    return Result("compare", found, settings, rows, facts, noun="arms")


def _print(result: Result) -> None:
    facts, out = result.facts, output.out()
    capacity = facts.get("capacity")
    of = (
        ""
        if capacity is None
        else f", {facts['load']:.0%} of the {capacity:.2f} that pool can take"
    )
    out.print(
        f"{facts['requests']} requests over {result.settings['duration_s']:g} s, "
        f"{facts['rate']:.2f} a second{of}"
    )
    if facts["arrivals_are_short"]:
        out.print(f"arrivals over less than {LONG_S:g} s say little of waiting")
    if facts["num_cut"]:
        out.print(f"{facts['num_cut']} requests were cut to fit a context")
    grid = output.table("arm", "lost", "tokens/s", "Jain", "device")
    for row in result.rows:
        jain = "–" if row["jain"] is None else f"{row['jain']:.3f}"
        size = output.size(row["device_bytes"])
        grid.add_row(row["arm"], str(row["all"]["lost"]), waits.rate(row["all"]), jain, size)
    out.print(grid)
    out.print()
    out.print(shown.waits_table("arm", {row["arm"]: row["all"] for row in result.rows}))
    out.print(waits.WORDS)
    for other, by_arm in facts["ratios"].items():
        out.print()
        grid = output.table(f"÷ {other}", *waits.RATIOS)
        for cells in waits.ratio_cells(by_arm):
            grid.add_row(*cells)
        out.print(grid)
    out.print()
    for row in result.rows:
        own = "".join(f", {name} {value:.3g}" for name, value in row["facts"].items())
        out.print(f"{row['arm']}: {waits.client_words(row['client'])}{own}", soft_wrap=True)
    for row in result.rows:
        shown.print_warnings([f"{row['arm']}: {words}" for words in row["warnings"]])
        for error in row["errors"]:
            output.err().print(f"{row['arm']} lost: {error}", markup=False, soft_wrap=True)
