"""Plots how each expert is stored: a map of layers and experts for every model."""

import math

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from consolidation.release import Manifest
from consolidation.report.drawing import EDGE, INK, PALETTE, figure, svg
from consolidation.report.holdings import Holding, holdings

DARK = frozenset({"blue", "green", "grey", "vermillion"})
"""Colours on which text is white."""
MAX_LABELLED = 16
"""Up to this many experts in a row, there is room for text in each."""
MAX_DRAWN = 1024
"""Panels with more cells draw them as an image."""
LONG = 6
"""Labels with at least this many characters have smaller letters."""
PANEL_WIDTH = 4.4


def sharing_map(manifest: Manifest) -> str:
    """A panel for each model: a row per layer, a column per expert."""
    names = sorted(manifest.models)
    maps = [holdings(manifest, name) for name in names]
    num_columns = min(2, len(names))
    num_rows = math.ceil(len(names) / num_columns)
    panel_height = 0.55 + min(4.2, max(0.24 * len(manifest.layers), 0.8))
    with figure(PANEL_WIDTH * num_columns, panel_height * num_rows + 0.5) as drawn:
        panels = drawn.subplots(num_rows, num_columns, squeeze=False)
        for place, axes in enumerate(panels.flat):
            if place < len(names):
                _draw(axes, names[place], maps[place])
            else:
                axes.set_visible(False)
        used = {held.look for one in maps for row in one for held in row}
        looks = sorted(used, key=lambda look: (list(PALETTE).index(look.colour), look.name))
        handles = [Patch(color=PALETTE[look.colour], label=look.name) for look in looks]
        drawn.legend(handles=handles, loc="outside lower left", ncols=4)
        return svg(drawn, "How each expert is stored")


def _draw(axes: Axes, name: str, rows: list[list[Holding]]) -> None:
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
    axes.set_title(name)
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    for of_axis, count in ((axes.xaxis, width), (axes.yaxis, len(rows))):
        step = math.ceil(count / 12)
        of_axis.set_ticks(
            [place + 0.5 for place in range(0, count, step)],
            [str(p) for p in range(0, count, step)],
        )
    if width <= MAX_LABELLED and len(rows) <= 2 * MAX_LABELLED:
        _label(axes, rows)


def _label(axes: Axes, rows: list[list[Holding]]) -> None:
    longest = max(len(held.label) for row in rows for held in row)
    size = 7 if longest <= LONG else 5.5
    for layer, row in enumerate(rows):
        for index, held in enumerate(row):
            colour = EDGE if held.look.colour in DARK else INK
            place = (index + 0.5, layer + 0.5)
            axes.annotate(held.label, place, color=colour, ha="center", va="center", size=size)
