"""Plots how each expert is stored: a map of layers and experts for every model.

And, of releases too large to read in a map, how much of each layer is stored how.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from consolidation.report.drawing import EDGE, INK, PALETTE, figure, shortened, svg
from consolidation.report.holdings import Holdings
from representation.formats import Look

DARK = frozenset({"blue", "green", "grey", "vermillion"})
"""Colours on which text is white."""
MAX_LABELLED = 16
"""Up to this many experts in a row, there is room for text in each."""
MAX_DRAWN = 1024
"""Panels with more cells draw them as an image."""
LONG = 6
"""Labels with at least this many characters have smaller letters."""
PANEL_WIDTH = 4.4
LONGEST = 48
"""Characters of a name for which a panel has room."""


def has_labels(maps: Sequence[Holdings]) -> bool:
    """Whether there is room for text in each cell of the models' maps."""
    widest = max(len(row) for rows in maps for row in rows)
    return widest <= MAX_LABELLED and len(maps[0]) <= 2 * MAX_LABELLED


def layer_shares(maps: Sequence[Holdings]) -> str:
    """How the experts of each layer are stored, those of all models together: a bar per layer."""
    num_layers = len(maps[0])
    counts = [Counter(held.look for rows in maps for held in rows[i]) for i in range(num_layers)]
    with figure(2 * PANEL_WIDTH, 0.9 + max(1.2, 0.09 * num_layers)) as drawn:
        axes = drawn.subplots()
        before = [0.0] * num_layers
        for look in _in_order({look for count in counts for look in count}):
            shares = [100 * count[look] / count.total() for count in counts]
            axes.barh(
                range(num_layers), shares, 0.8, before, color=PALETTE[look.colour], label=look.name
            )
            before = [left + share for left, share in zip(before, shares, strict=True)]
        axes.set_ylim(num_layers - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the experts")
        axes.set_ylabel("layer")
        axes.grid(visible=False)
        drawn.legend(loc="outside lower left", ncols=4)
        return svg(drawn, "How the experts of each layer are stored")


def _in_order(looks: Iterable[Look]) -> list[Look]:
    return sorted(looks, key=lambda look: (list(PALETTE).index(look.colour), look.name))


def sharing_map(names: Sequence[str], maps: Sequence[Holdings]) -> str:
    """A panel for each model: a row per layer, a column per expert."""
    is_labelled = has_labels(maps)
    num_columns = min(2, len(names))
    num_rows = math.ceil(len(names) / num_columns)
    panel_height = 0.55 + min(4.2, max(0.24 * len(maps[0]), 0.8))
    with figure(PANEL_WIDTH * num_columns, panel_height * num_rows + 0.5) as drawn:
        panels = drawn.subplots(num_rows, num_columns, squeeze=False)
        for place, axes in enumerate(panels.flat):
            if place < len(names):
                _draw(axes, names[place], maps[place])
                if is_labelled:
                    _label(axes, maps[place])
            else:
                axes.set_visible(False)
        looks = _in_order({held.look for one in maps for row in one for held in row})
        handles = [Patch(color=PALETTE[look.colour], label=look.name) for look in looks]
        drawn.legend(handles=handles, loc="outside lower left", ncols=4)
        return svg(drawn, "How each expert is stored")


def _draw(axes: Axes, name: str, rows: Holdings) -> None:
    width = max(len(row) for row in rows)
    colours = list(PALETTE)
    # Layers may differ in how many experts they have: what is not there stays empty.
    cells = [
        [colours.index(held.look.colour) for held in row] + [math.nan] * (width - len(row))
        for row in rows
    ]
    # One path for each of thousands of cells would be a page of many megabytes.
    is_large = len(rows) * width > MAX_DRAWN
    axes.pcolormesh(
        cells,
        cmap=ListedColormap(list(PALETTE.values())),
        vmin=0,
        vmax=len(colours),
        edgecolors="none" if is_large else EDGE,
        linewidth=0.8,
        rasterized=is_large,
    )
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(shortened(name, LONGEST))
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    for of_axis, count in ((axes.xaxis, width), (axes.yaxis, len(rows))):
        step = math.ceil(count / 12)
        of_axis.set_ticks(
            [place + 0.5 for place in range(0, count, step)],
            [str(p) for p in range(0, count, step)],
        )


def _label(axes: Axes, rows: Holdings) -> None:
    longest = max(len(held.label) for row in rows for held in row)
    size = 7 if longest <= LONG else 5.5
    for layer, row in enumerate(rows):
        for index, held in enumerate(row):
            colour = EDGE if held.look.colour in DARK else INK
            place = (index + 0.5, layer + 0.5)
            axes.annotate(held.label, place, color=colour, ha="center", va="center", size=size)
