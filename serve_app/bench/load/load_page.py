"""Plots and tables about requests that were sent to one endpoint or engine."""

from collections.abc import Mapping, Sequence
from typing import Any

from consolidation.report import drawing
from serve_app.bench.requests import waits
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Plot, Section, Table

Asked = Mapping[str, Any]


def sections(result: Result) -> list[Section]:
    """How long requests waited, by model, and how many were open."""
    facts, requests = result.facts, result.facts["requests"]
    by_model = {row["model"]: row for row in result.rows}
    counts = [
        [name, str(row["requests"]), str(row["lost"]), waits.rate(row)]
        for name, row in by_model.items()
    ]
    jain = (
        "" if facts["jain"] is None else f" Jain index {facts['jain']:.3f} of {facts['jain_of']}."
    )
    cut = f" {facts['num_cut']} were cut to fit a context." if facts["num_cut"] else ""
    words = f"{waits.WORDS}{jain}{cut} {waits.client_words(facts['client']).capitalize()}."
    words += "".join(f" {one}." for one in facts["warnings"])
    tables = [
        Table("", ["model", "requests", "lost", "answers, tokens/s"], counts),
        waits.table("model", by_model),
    ]
    plots = [
        Plot(_shares(requests), "Share of the requests that waited no longer."),
        Plot(_under_way(requests), "Requests that had arrived but were not fully answered."),
    ]
    return [Section("Requests", words, plots, tables)]


def _shares(requests: Sequence[Asked]) -> str:
    """For each model the distribution of turnaround, and of the time to the first token."""
    names = sorted({one["model"] for one in requests})
    with drawing.figure(8.4, 3.3) as drawn:
        both = drawn.subplots(1, 2, sharey=True)
        for axes, key, title in zip(
            both, ("finished_s", "first_s"), ("Turnaround", "First token"), strict=True
        ):
            for name, (colour, _) in zip(names, drawing.looks(len(names)), strict=True):
                own = [one for one in requests if one["model"] == name and one[key] is not None]
                draw_shares(axes, [one[key] - one["at_s"] for one in own], name, colour)
            axes.set(xlabel="s", xlim=(0, None), ylim=(0, 100), title=title)
        both[0].set(ylabel="% of the requests")
        drawn.legend(*both[0].get_legend_handles_labels(), loc="outside right upper")
        return drawing.svg(drawn, "turnaround and time to first token by model")


def draw_shares(axes: Any, values: Sequence[float], name: str, colour: str) -> None:
    """A line through the share of values that are no larger."""
    if not values:
        return
    ordered = sorted(values)
    heights = [100.0 * rank / len(ordered) for rank in range(len(ordered) + 1)]
    ordered.insert(0, ordered[0])
    axes.step(ordered, heights, where="post", color=colour, label=name)


def _under_way(requests: Sequence[Asked]) -> str:
    changes = [(one["at_s"], 1) for one in requests]
    changes += [(one["finished_s"], -1) for one in requests if one["finished_s"] is not None]
    times, counts, count = [0.0], [0], 0
    for at, change in sorted(changes):
        count += change
        times.append(at)
        counts.append(count)
    with drawing.figure(8.4, 2.4) as drawn:
        axes = drawn.subplots()
        axes.step(times, counts, where="post", color=drawing.BLUE)
        axes.set(xlabel="s", ylabel="requests", xlim=(0, None), ylim=(0, None), title="Under way")
        return drawing.svg(drawn, "open requests")
