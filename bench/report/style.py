"""One look for every figure: page, panels, units. No pyplot, hence no global state."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogFormatterSciNotation

from profl.bench.files import replacing

WIDTH = 850 / 96
"""Inches. At 96 pixels per inch a figure is as wide as a README column, and 9 pt text is 9 pt."""

GREY = "#6E6E6E"
PALE = "#D0D0D0"

_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#EBEBEB",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is one
    "svg.hashsalt": "profl",  # else every SVG gets new random ids
}


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the settings, and nothing of the user's own matplotlibrc, to figures made and saved inside."""
    with matplotlib.style.context(["default", _SETTINGS]):
        yield


@dataclass(frozen=True)
class Legend:
    """One legend for all panels of a page: what is in it, in how many columns, and the height it takes.

    The height is that of its lines, unless something in it is higher.
    """

    handles: Sequence[Any]
    columns: int
    higher_inches: float = 0.0

    @property
    def inches(self) -> float:
        return self.higher_inches or 0.05 + 0.2 * math.ceil(len(self.handles) / self.columns)


def page(
    body: float,
    title: str,
    subtitle: str,
    notes: Sequence[str] = (),
    legend: Legend | None = None,
    axis_names: tuple[str, str] = ("", ""),
) -> Figure:
    """Return an empty figure with a heading and notes at the foot; axes go in between, ``body`` inches high.

    Parameters
    ----------
    body
        Height left to the axes, in inches.
    title, subtitle
        What is shown; of what and where measured.
    notes
        Sentences for the foot.
    legend
        What stands under the heading.
    axis_names
        Names of the x and y axes that all panels share, once for the page.
    """
    across, up = axis_names
    lines = [line for note in notes for line in textwrap.wrap(note, 128)]
    heading, foot = 0.52 + (legend.inches if legend else 0.0), 0.08 + 0.165 * len(lines) + (0.22 if across else 0.0)
    height = heading + body + foot
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    side = 0.2 / WIDTH if up else 0.0
    engine.set(rect=(side, foot / height, 1.0 - side, body / height), w_pad=0.08, h_pad=0.06)
    figure.text(0.5, (foot - 0.02) / height, across, ha="center", va="top")
    figure.text(0.09 / WIDTH, (foot + body / 2) / height, up, rotation=90, ha="left", va="center")
    left = 0.1 / WIDTH
    figure.text(left, 1 - 0.08 / height, title, size=12, weight="bold", va="top")
    figure.text(left, 1 - 0.31 / height, subtitle, color="#444444", va="top")
    figure.text(left, 0.06 / height, "\n".join(lines), color="#444444", va="bottom", linespacing=1.3)
    if legend:
        figure.legend(
            handles=legend.handles,
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - 0.48 / height),
            ncols=legend.columns,
            columnspacing=1.6,
            handletextpad=0.5,
        )
    return figure


def panels(figure: Figure, count: int, columns: int = 2) -> list[Axes]:
    """Return ``count`` panels with shared axes in rows of ``columns``; each column's lowest has x labels."""
    columns = min(columns, count)
    grid = figure.subplots(math.ceil(count / columns), columns, sharex=True, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    for place, panel in enumerate(axes[:count]):
        panel.tick_params(labelbottom=place + columns >= count)
    return axes[:count]


class PowersOfTen(LogFormatterSciNotation):
    """Labels of a logarithmic axis as matplotlib writes them, but without its language for formulas."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return ``10⁻³`` where matplotlib has ``$\\mathdefault{10^{-3}}$``."""
        text = re.sub(r"\^\{(.*?)\}", lambda power: power[1].translate(_RAISED), super().__call__(x, pos))
        return text.removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", "×")


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def say_empty(axes: Axes) -> None:
    """Say that there is nothing to show yet, instead of an axis of made-up numbers."""
    axes.text(0.5, 0.5, "no result yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_yticks([])


def settle(figure: Figure) -> None:
    """Fix the layout, so that labels placed by measured position stay where they were put."""
    if not isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        # The solver's last bits differ from time to time; rounded off, the same results give the same bytes.
        left, low, width, height = (round(edge, 6) for edge in axes.get_position().bounds)
        axes.set_position((left, low, width, height))


def mebibytes(size: float) -> str:
    """Return ``'531'``, ``'53.1'`` or ``'5.31'`` for a number of bytes; ``'?'`` if unknown."""
    if not math.isfinite(size):
        return "?"
    value = size / 2**20
    return f"{value:,.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes."""
    settle(figure)  # once, not again for either file
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    # Not by savefig, which draws a figure that ever had a layout engine twice.
    figure.set_dpi(192)
    with replacing(png) as partial:
        FigureCanvasAgg(figure).print_png(partial, metadata={"Software": None})
    with replacing(svg) as partial:
        FigureCanvasSVG(figure).print_svg(partial, metadata={"Date": None, "Creator": None})
    return [png, svg]
