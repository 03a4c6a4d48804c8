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
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogFormatterSciNotation

from profl.bench.files import replacing

WIDTH = 850 / 96
"""Inches. At 96 pixels per inch a figure is as wide as a README column, and 9 pt text is 9 pt."""

WIDTHS = {"column": 10 / 3, "page": 7.0}
"""Inches of a column and of the text of a paper in two columns, such as ACM's and IEEE's."""

NARROWEST, WIDEST = 3.0, 20.0
"""Inches between which figures can be drawn so that all of their text is in them."""

FORMATS = ("png", "svg", "pdf")
"""Of figures."""

_TEXT_POINTS = 9.0
"""Size of the text on a sheet that is `WIDTH` wide."""


@dataclass(frozen=True)
class Sheet:
    """What figures are drawn on.

    Parameters
    ----------
    width_inches
        How wide a figure is: it is meant to be shown at its own size.
    bare
        Whether titles and notes are left out, as where a caption says what they say.
    formats
        In which figures are written, of `FORMATS`.
    """

    width_inches: float = WIDTH
    bare: bool = False
    formats: Sequence[str] = ("png", "svg")

    @property
    def scale(self) -> float:
        """Size of text, and of what is laid out by it, as a share of that on a sheet of `WIDTH`.

        Text is of 9, 8 or 7 points: in print nothing smaller is read with ease.
        """
        points = _TEXT_POINTS if self.width_inches > 8 else 8.0 if self.width_inches > 5 else 7.0
        return points / _TEXT_POINTS

    @property
    def room(self) -> float:
        """How much text stands side by side, as a share of that on a sheet of `WIDTH`."""
        return self.width_inches / WIDTH / self.scale

    @property
    def narrow(self) -> bool:
        """Whether panels must stand one below another."""
        return self.room < 0.6

    @property
    def dots_per_inch(self) -> int:
        """Of a PNG: twice those of a screen, or those of print."""
        return 192 if self.width_inches >= WIDTH else 300

    @property
    def character_inches(self) -> float:
        """Width of a character of a label."""
        return 0.075 * self.scale

    @property
    def line_points(self) -> float:
        """Height of a line of labels."""
        return 12.0 * self.scale


README = Sheet()
"""The usual one."""

GREY = "#6E6E6E"
PALE = "#D0D0D0"

_SIZES = {
    "font.size": _TEXT_POINTS,
    "axes.titlesize": 9.5,
    "axes.labelsize": _TEXT_POINTS,
    "xtick.labelsize": _TEXT_POINTS,
    "ytick.labelsize": _TEXT_POINTS,
    "legend.fontsize": _TEXT_POINTS,
}
_SETTINGS = {
    "font.family": "DejaVu Sans",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#EBEBEB",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is one
    "svg.hashsalt": "profl",  # else every SVG gets new random ids
    "pdf.fonttype": 42,  # TrueType, as publishers ask for: the usual Type 3 has no hints, and some refuse it
}


@contextmanager
def house_style(sheet: Sheet = README) -> Iterator[None]:
    """Apply the settings, and nothing of the user's own matplotlibrc, to figures made and saved inside."""
    sizes = {name: sheet.scale * points for name, points in _SIZES.items()}
    with matplotlib.style.context(["default", {**_SETTINGS, **sizes}]):
        yield


@dataclass(frozen=True)
class Legend:
    """One legend for all panels of a page: what is in it, in how many columns, and the height it takes.

    On a sheet narrower than `WIDTH` it has as many columns as fit. The height is that of its lines, which are higher
    where something in it is.
    """

    handles: Sequence[Any]
    columns: int
    line_inches: float = 0.2

    def columns_on(self, sheet: Sheet) -> int:
        """Return in how many columns it stands."""
        if sheet.width_inches >= WIDTH:
            return self.columns
        longest = max(len(handle.get_label()) for handle in self.handles)
        each = (4.5 * _TEXT_POINTS / 72 + 0.075 * longest) * sheet.scale
        return max(1, min(self.columns, int(sheet.width_inches / each)))

    def inches_on(self, sheet: Sheet) -> float:
        """Return how high it is."""
        lines = math.ceil(len(self.handles) / self.columns_on(sheet))
        return 0.05 + (0.2 * lines + self.overhang_inches) * sheet.scale

    @property
    def overhang_inches(self) -> float:
        """By how much a mark is higher than its line, on the usual sheet."""
        return self.line_inches - 0.2


def page(
    body: float,
    title: str,
    subtitle: str,
    notes: Sequence[str] = (),
    legend: Legend | None = None,
    axis_names: tuple[str, str] = ("", ""),
    sheet: Sheet = README,
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
    sheet
        What it is drawn on; a bare one has neither heading nor notes.
    """
    across, up = axis_names
    width, scale = sheet.width_inches, sheet.scale
    lines = [] if sheet.bare else _wrapped(notes, 126 * sheet.room)
    titles, subtitles = (
        ([], []) if sheet.bare else (_wrapped([title], 80 * sheet.room), _wrapped([subtitle], 150 * sheet.room - 12))
    )
    below = 0.31 * scale + 0.2 * scale * (len(titles) - 1)  # where the subtitle begins
    above = legend.overhang_inches / 2 * scale if legend else 0.0
    top = 0.02 + above if sheet.bare else below + 0.17 * scale + 0.165 * scale * (len(subtitles) - 1)
    heading = top + 0.04 + (legend.inches_on(sheet) if legend else 0.0)
    foot = 0.08 + 0.165 * scale * len(lines) + (0.22 * scale if across else 0.0)
    height = heading + body + foot
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    side = 0.2 * scale / width if up else 0.0
    engine.set(rect=(side, foot / height, 1.0 - side, body / height), w_pad=0.08, h_pad=0.06)
    figure.text(0.5, (foot - 0.02) / height, across, ha="center", va="top")
    figure.text(0.09 / width, (foot + body / 2) / height, up, rotation=90, ha="left", va="center")
    left = 0.1 / width
    figure.text(left, 1 - 0.08 / height, "\n".join(titles), size=12 * scale, weight="bold", va="top")
    figure.text(left, 1 - below / height, "\n".join(subtitles), color="#444444", va="top")
    figure.text(left, 0.06 / height, "\n".join(lines), color="#444444", va="bottom", linespacing=1.3)
    if legend:
        figure.legend(
            handles=legend.handles,
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - top / height),
            ncols=legend.columns_on(sheet),
            columnspacing=1.6,
            handletextpad=0.5,
        )
    return figure


def _wrapped(sentences: Sequence[str], characters: float) -> list[str]:
    """Return the lines of sentences, each of which begins one."""
    return [line for sentence in sentences for line in textwrap.wrap(sentence, int(characters))]


def panels(figure: Figure, count: int, columns: int = 2, heights: Sequence[float] = ()) -> list[Axes]:
    """Return ``count`` panels with shared axes in rows of ``columns``; each column's lowest has x labels.

    Where ``heights`` tell the rows' apart, relative to each other, each panel has a y axis of its own.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    grid = figure.subplots(rows, columns, sharex=True, sharey=not heights, squeeze=False, height_ratios=heights or None)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    for place, panel in enumerate(axes[:count]):
        panel.tick_params(labelbottom=place + columns >= count, labelleft=place % columns == 0)
    return axes[:count]


class PowersOfTen(LogFormatterSciNotation):
    """Labels of a logarithmic axis as matplotlib writes them, but without its language for formulas."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return ``10⁻³`` where matplotlib has ``$\\mathdefault{10^{-3}}$``."""
        text = re.sub(r"\^\{(.*?)\}", lambda power: power[1].translate(_RAISED), super().__call__(x, pos))
        return text.removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", "×")


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def say_empty(axes: Axes, why: str = "no result yet") -> None:
    """Say that there is nothing to show, and why, instead of an axis of made-up numbers."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=GREY)
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


def save(figure: Figure, folder: Path, name: str, sheet: Sheet = README) -> list[Path]:
    """Write a figure in the formats of a sheet; the same figure gives the same bytes."""
    settle(figure)  # once, not again for every file
    written = []
    for kind in FORMATS:
        if kind in sheet.formats:
            path = folder / f"{name}.{kind}"
            with replacing(path) as partial:
                _PRINTERS[kind](figure, partial, sheet)
            written.append(path)
    return written


# Not by savefig, which draws a figure that ever had a layout engine twice.


def _print_png(figure: Figure, path: Path, sheet: Sheet) -> None:
    figure.set_dpi(sheet.dots_per_inch)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})


def _print_svg(figure: Figure, path: Path, sheet: Sheet) -> None:
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})


def _print_pdf(figure: Figure, path: Path, sheet: Sheet) -> None:
    FigureCanvasPdf(figure).print_pdf(path, metadata={"CreationDate": None, "Creator": None, "Producer": None})


_PRINTERS = {"png": _print_png, "svg": _print_svg, "pdf": _print_pdf}
