"""Figures as SVG text inside a page, all in one style. Knows nothing about what is drawn.

Does not use pyplot: no window, and no global state but the style, which is restored. The same
figure gives the same text. Colours are those of Okabe and Ito ("Color universal design", 2008),
which people with any common kind of colour blindness can tell apart; markers differ as well.
"""

import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, GREY = "#CC79A7", "#56B4E9", "#F0E442", "#8A8F98"
PALETTE = {
    "blue": BLUE,
    "sky": SKY,
    "vermillion": VERMILLION,
    "orange": ORANGE,
    "green": GREEN,
    "yellow": YELLOW,
    "grey": GREY,
    "purple": PURPLE,
}
"""The colours that formats name, in the order of a legend."""
INK, FAINT, EDGE = "#1D2430", "#E3E6EB", "#FFFFFF"
COLOURS = (ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY)
MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "h")

NEGLIGIBLE = 1e-6
"""Smaller divergences are rounding errors, and get no room of their own."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "expertpool",
    "savefig.dpi": 200,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 6.5,
    "lines.markeredgewidth": 0.5,
}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure, sizes in inches. The style applies inside the context."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(drawn: Figure, title: str) -> str:
    """The figure as an `<svg>` element that scales with the page; `title` is for screen readers."""
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    element = text.getvalue()[text.getvalue().index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    # Each figure numbers its groups from 1. Nothing refers to them, and a page needs unique ids.
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    return element.replace("<svg ", '<svg role="img" ', 1)


def looks(number: int) -> Sequence[tuple[str, str]]:
    """Colours and markers for `number` series: no pair repeats before 54 of them."""
    return [
        (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i in range(number)
    ]


def shortened(name: str, most: int) -> str:
    """A name in at most so many characters: its middle goes, since names differ at their ends."""
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[-end:]}"


def log_with_zero(values: Iterable[float]) -> dict[str, Any]:
    """A scale for divergences: logarithmic, but linear near 0, so that 0 has a place."""
    positive = [value for value in values if NEGLIGIBLE < value < math.inf]
    least = 10.0 ** math.floor(math.log10(min(positive, default=NEGLIGIBLE)))
    return {"value": "symlog", "linthresh": least, "linscale": 0.3}
