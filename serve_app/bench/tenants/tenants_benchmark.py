"""The rows of `bench tenants`, their bars, and what measures them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import usable_cores
from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.bars.bar_list import Bar
from serve_app.bench.bars.bars import Measure, measure_bars
from serve_app.bench.requests.workload import Asked
from serve_app.bench.result.environment import environment
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.result.result import Result
from serve_app.bench.tenants import backlogged, keeping, planning, quiet, reloading
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.bench.weights.shapes import SHAPES
from serve_app.engine.config import EngineConfig

SHAPE = SHAPES["mixtral-115m"]
NUM_MODELS = 4
MANY_MODELS = 10
_AT_ONCE, _CONTEXT = 32, 128
RELOAD_LAYERS = 4
"""Of releases in which each model has experts of its own."""
FREE_CORES = 3
"""With so many cores, one is free for the clients."""

ROWS: dict[str, Bar] = {
    bar.name: bar
    for bar in (
        Bar(
            "tenants_apart_over_bound",
            1.0,
            "two waiting tenants, one sending ten times as much and to ten models: the largest"
            " difference of tokens served ÷ the bound of scheduling/fairness",
        ),
        Bar("jain_of_two_tenants", 0.98, "Jain's index of the same", at_least=True),
        Bar(
            "quiet_p99_over_alone",
            1.5 if len(usable_cores()) >= FREE_CORES else 3.0,
            "a quiet tenant's p99 turnaround beside one that floods ÷ alone, median of 5",
        ),
        Bar(
            "planning_ms",
            1.0,
            "processor ms of planning a step while 1,000 requests of 1,000 tenants wait, median",
        ),
        Bar(
            "keeping_over_without",
            1.05,
            "processor time a token of ingress, text and engine with keys, limits and usage"
            " records ÷ without",
        ),
        Bar(
            "reload_lost_or_wrong",
            0.0,
            "streams of four models while the next release is taken up: answers lost or wrong",
        ),
        Bar(
            "reload_gap_over_median",
            3.0,
            "worst gap of a stream meanwhile ÷ the median gap before",
        ),
        Bar(
            "reload_read_over_share",
            1.05,
            "bytes read for a release that changes one model of four ÷ that model's own",
        ),
    )
}
"""By name, in the order in which they are shown."""


def _backlogged(on_progress: OnProgress) -> Mapping[str, Measured]:
    return backlogged.backlogged(
        RandomRelease(SHAPE.config(num_layers=2), MANY_MODELS), on_progress=on_progress
    )


def _quiet(on_progress: OnProgress) -> Mapping[str, Measured]:
    found = quiet.quiet_beside_flood(_ground(), _asked(), on_progress=on_progress)
    return {"quiet_p99_over_alone": found}


def _planning(on_progress: OnProgress) -> Mapping[str, Measured]:
    return {"planning_ms": planning.planning_ms(on_progress=on_progress)}


def _keeping(on_progress: OnProgress) -> Mapping[str, Measured]:
    found = keeping.keeping_cost(_ground(), _asked(), on_progress=on_progress)
    return {"keeping_over_without": found}


def _reloading(on_progress: OnProgress) -> Mapping[str, Measured]:
    """In float32, so that no answer depends on what else is in a step."""
    ground = _ground()
    source = RandomSpec(SHAPE.config(RELOAD_LAYERS), NUM_MODELS, "bfloat16", merged=False)
    engine = replace(ground.engine, dtype="float32")
    return reloading.reloading(
        replace(ground, source=source, engine=engine), _asked(), on_progress=on_progress
    )


MEASURES: Mapping[tuple[str, ...], Measure] = {
    ("planning_ms",): _planning,
    ("tenants_apart_over_bound", "jain_of_two_tenants"): _backlogged,
    ("quiet_p99_over_alone",): _quiet,
    ("keeping_over_without",): _keeping,
    ("reload_lost_or_wrong", "reload_gap_over_median", "reload_read_over_share"): _reloading,
}
"""The rows that are measured together, and their measure."""


def tenants_result(names: Sequence[str], on_progress: OnProgress = lambda *_: None) -> Result:
    """All of `bench tenants`: the rows of these names, in the order in which they are shown."""
    chosen = [name for name in ROWS if name in names]
    here = environment("cpu")
    rows, facts = measure_bars(chosen, MEASURES, on_progress, bars=ROWS)
    settings = {"shape": "mixtral-115m", "models": NUM_MODELS, "device": "cpu", "only": chosen}
    return Result("tenants", here, settings, rows, {"measures": facts}, noun="bars")


def _ground() -> Ground:
    engine = EngineConfig(
        device="cpu",
        dtype="bfloat16",
        kv_tokens=_AT_ONCE * _CONTEXT,
        max_sequences=_AT_ONCE,
    )
    names = tuple(f"m{number}" for number in range(NUM_MODELS))
    return Ground(RandomSpec(SHAPE.config(), NUM_MODELS, "bfloat16"), names, engine)


def _asked() -> list[Asked]:
    vocabulary = int(SHAPE.fields["vocab_size"])
    return [Asked(f"m{number}", _CONTEXT, vocabulary) for number in range(NUM_MODELS)]
