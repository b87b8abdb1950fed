"""What is measured for each bar, and whether its limit is met. `bar_list.py` has the limits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serve_app.bench.bars import (
    compared,
    consolidated,
    decoding,
    encoders,
    expert_products,
    hybrids,
    over_reading,
    scaling,
    streaming,
)
from serve_app.bench.bars.bar_list import BARS, Bar
from serve_app.bench.result.environment import environment
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.result.result import Result
from serve_app.bench.step import cold
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.bench.weights.shapes import SHAPES

NUM_MODELS = 4
SHAPE = SHAPES["mixtral-115m"]


Measure = Callable[[OnProgress], Mapping[str, Measured]]
"""Measures the values of its bars."""


def _release(num_models: int = NUM_MODELS, **others: Any) -> RandomRelease:
    return RandomRelease(SHAPE.config(**others), num_models)


def _packed(on_progress: OnProgress) -> Mapping[str, Measured]:
    return decoding.packed_ratios(_release(), on_progress=on_progress)


def _consolidated(on_progress: OnProgress) -> Mapping[str, Measured]:
    return consolidated.steps_over_dense(
        lambda slots, residuals: RandomRelease(
            SHAPE.config(), NUM_MODELS, parts=slots, residuals=residuals
        ),
        on_progress=on_progress,
    )


def _codes(on_progress: OnProgress) -> Mapping[str, Measured]:
    return {"codes_read_over_copied": expert_products.codes_read_over_copied(on_progress)}


def _launches(on_progress: OnProgress) -> Mapping[str, Measured]:
    del on_progress
    found = expert_products.launches_a_layer(
        lambda slots, residuals: RandomRelease(
            SHAPE.config(num_layers=1), 1, parts=slots, residuals=residuals
        )
    )
    return {"launches_a_layer": found}


def _outside(on_progress: OnProgress) -> Mapping[str, Measured]:
    found = decoding.outside_forward_share(_release(), on_progress=on_progress)
    return {"outside_forward_share": found}


def _outside_of_many(on_progress: OnProgress) -> Mapping[str, Measured]:
    found = decoding.outside_forward_ms(_release(), on_progress=on_progress)
    return {"outside_forward_ms": found}


def _scaling(on_progress: OnProgress) -> Mapping[str, Measured]:
    found = scaling.scaling(
        lambda places: _release(places),
        lambda experts: _release(num_local_experts=experts),
        on_progress=on_progress,
    )
    return {"scaling": found}


def _against_transformers(on_progress: OnProgress) -> Mapping[str, Measured]:
    subject = compared.bars_subject()
    found = compared.engine_over_transformers(subject, on_progress=on_progress)
    return {"engine_over_transformers": found}


def _against_isolated(on_progress: OnProgress) -> Mapping[str, Measured]:
    subject = compared.bars_subject()
    found = compared.pool_over_isolated_turnaround(subject, on_progress=on_progress)
    return {"pool_over_isolated_turnaround": found}


def _over_http(on_progress: OnProgress) -> Mapping[str, Measured]:
    found = streaming.http_over_engine(compared.bars_subject(), on_progress=on_progress)
    return {"http_over_engine": found}


def _http_cost(on_progress: OnProgress) -> Mapping[str, Measured]:
    found = streaming.us_per_token(compared.bars_subject(), (16, 64), on_progress)
    return {f"http_us_at_{streams}_streams": measured for streams, measured in found.items()}


def _cold(on_progress: OnProgress) -> Mapping[str, Measured]:
    found = cold.cold_over_resident_ttft(_release(), on_progress=on_progress)
    return {"cold_over_resident_ttft": found}


def _beside_load(on_progress: OnProgress) -> Mapping[str, Measured]:
    found = cold.running_tpot_during_load(_release(), on_progress=on_progress)
    return {"running_tpot_during_load": found}


def _recurrent(on_progress: OnProgress) -> Mapping[str, Measured]:
    source = RandomRelease(SHAPES["qwen3-next"].config(), NUM_MODELS)
    return hybrids.hybrid_ratios(source, on_progress=on_progress)


def _encoders(on_progress: OnProgress) -> Mapping[str, Measured]:
    source = RandomRelease(SHAPES["switch"].config(), NUM_MODELS)
    return encoders.encoder_ratios(source, on_progress=on_progress)


def _over_reading(on_progress: OnProgress) -> Mapping[str, Measured]:
    return {"consolidate_over_read": over_reading.consolidate_over_read(on_progress)}


MEASURES: Mapping[tuple[str, ...], Measure] = {
    ("packed_over_sequential", "packed_over_single"): _packed,
    (
        "four_bits_over_dense",
        "four_bits_alone_over_dense",
        "four_bits_products_over_dense",
        "four_bits_products_alone_over_dense",
        "one_size_over_dense",
    ): _consolidated,
    ("codes_read_over_copied",): _codes,
    ("launches_a_layer",): _launches,
    ("engine_over_transformers",): _against_transformers,
    ("outside_forward_share",): _outside,
    ("outside_forward_ms",): _outside_of_many,
    ("http_over_engine",): _over_http,
    ("http_us_at_16_streams", "http_us_at_64_streams"): _http_cost,
    ("cold_over_resident_ttft",): _cold,
    ("running_tpot_during_load",): _beside_load,
    ("pool_over_isolated_turnaround",): _against_isolated,
    ("scaling",): _scaling,
    ("hybrid_packed_over_sequential", "state_update_over_copied"): _recurrent,
    ("encoders_packed_over_sequential", "encoders_over_transformers"): _encoders,
    ("consolidate_over_read",): _over_reading,
}
"""The bars that are measured together, and their measure."""


def bars_result(names: Sequence[str], on_progress: OnProgress = lambda *_: None) -> Result:
    """All of `bench bars`: the bars of these names, in the order in which they are shown."""
    chosen = [name for name in BARS if name in names]
    here = environment("cpu")
    rows, facts = measure_bars(chosen, MEASURES, on_progress)
    settings = {
        "shape": "mixtral-115m",
        "models": NUM_MODELS,
        "dtype": "bfloat16",
        "device": "cpu",
        "only": chosen,
    }
    return Result("bars", here, settings, rows, {"measures": facts}, noun="bars")


def measure_bars(
    names: Sequence[str],
    measures: Mapping[tuple[str, ...], Measure],
    on_progress: OnProgress = lambda *_: None,
    *,
    bars: Mapping[str, Bar] = BARS,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each bar, and what else was found, by name.

    If a measure fails, only its own bars fail, and their rows say why.
    """
    rows: dict[str, dict[str, Any]] = {}
    facts: dict[str, Any] = {}
    for together, measure in measures.items():
        wanted = [name for name in together if name in names]
        if not wanted:
            continue
        try:
            found = measure(on_progress)
        except Exception as error:  # noqa: BLE001 - the other bars are to be measured all the same
            why = str(error) or type(error).__name__
            rows |= {name: row(bars[name], None, why) for name in wanted}
            continue
        for name in wanted:
            rows[name] = row(bars[name], found[name].value)
            facts[name] = dict(found[name].facts)
    for name in names:
        rows.setdefault(name, row(bars[name], None, "nothing measures it"))
    return [rows[name] for name in names], facts


def row(bar: Bar, value: float | None, why: str | None = None) -> dict[str, Any]:
    """The row of one bar. value: None if it could not be measured; then `why` says why."""
    found: dict[str, Any] = {
        "name": bar.name,
        "value": value,
        "bar": bar.limit,
        "at_least": bar.at_least,
        "holds": value is not None and bar.holds(value),
        "says": bar.says,
    }
    return found if why is None else found | {"why": why}
