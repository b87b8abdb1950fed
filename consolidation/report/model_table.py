"""The table of a release's models, in words: what was measured, without columns that are empty."""

from collections.abc import Callable, Sequence

from consolidation.report.findings import ModelResult
from representation.decimals import plain

NOTHING = "–"


def number(value: float | None) -> str:
    """Three digits, as short as possible; a dash if it was not measured."""
    return NOTHING if value is None else plain(value)


def share(value: float | None) -> str:
    """In percent; a dash if it was not measured."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def _perplexity(one: ModelResult) -> str:
    return "{:.3f} → {:.3f}".format(*one.perplexity) if one.perplexity else NOTHING


def _accuracy(one: ModelResult) -> str:
    return " → ".join(map(share, one.accuracy)) if one.accuracy else NOTHING


COLUMNS: tuple[tuple[str, Callable[[ModelResult], str]], ...] = (
    ("KL, predicted", lambda one: number(one.predicted_kl)),
    ("KL, measured", lambda one: number(one.kl)),
    ("effect retained", lambda one: share(one.retained)),
    ("perplexity", _perplexity),
    ("accuracy", _accuracy),
    ("tokens agree", lambda one: share(one.token_agreement)),
    ("routers agree", lambda one: share(one.mean_router_agreement)),
    ("in the worst layer", lambda one: share(one.least_router_agreement)),
    ("KL, 99 %", lambda one: number(one.kl_99)),
    ("KL, 99.9 %", lambda one: number(one.kl_999)),
    ("RMS Δp", lambda one: share(one.rms_dp)),
)


def model_table(models: Sequence[ModelResult]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each model: its name first."""
    columns = [[cell(one) for one in models] for _, cell in COLUMNS]
    filled = [any(cell != NOTHING for cell in column) for column in columns]
    kept = [number for number, is_filled in enumerate(filled) if is_filled]
    rows = [
        [one.model, *(columns[number][row] for number in kept)] for row, one in enumerate(models)
    ]
    return ["model", *(COLUMNS[number][0] for number in kept)], rows
