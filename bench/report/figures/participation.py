"""Which devices can take part."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from profl.bench.report.figure import ReportFigure
from profl.bench.report.grid import Grid, by_method
from profl.bench.report.spread import Spread
from profl.bench.report.study import Study
from profl.bench.report.style import PALE, page

FEW = 8
"""Methods that fit as columns; more of them are rows."""


def draw(study: Study) -> Figure:
    """Draw the share of devices that can train anything, as a coloured table of tiers and methods."""
    shares = study.spreads("participation_share")
    tiers, methods = study.tiers, study.methods
    unknown = any(not shares[method, tier].known for method in methods for tier in tiers)
    notes = [f"Mean over the rounds of the share of devices that an offered task fits.{' ?: no result.' * unknown}"]
    title = "Share of devices that can take part (%)"
    sheet = study.sheet
    by_row = len(methods) > FEW or sheet.narrow
    fitting = int(112 * sheet.room) // len(methods)
    names = [study.label(name) if by_row else _folded(study.label(name), fitting) for name in methods]
    lines = max(name.count("\n") + 1 for name in names)
    row_inches = 0.38 if sheet.narrow else 0.24
    height = 0.6 + row_inches * len(methods) if by_row else 0.55 + 0.16 * (lines - 1) + 0.5 * len(tiers)
    figure = page(height, title, study.training_setting, notes + study.notes, sheet=sheet)
    axes = figure.subplots()
    table = [[shares[method, tier].times(100) for method in methods] for tier in tiers]
    rows = [list(row) for row in zip(*table, strict=True)] if by_row else table
    axes.imshow([[share.mean / 100 for share in row] for row in rows], cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for down, row in enumerate(rows):
        for across, share in enumerate(row):
            _write(axes, across, down, share, " · " if by_row and not sheet.narrow else "\n")
    if by_row:
        axes.set_xticks(range(len(tiers)), study.tier_labels)
        axes.set_yticks(range(len(methods)), names)
        axes.set_xlabel("memory tier")
        axes.xaxis.set_label_position("top")
    else:
        axes.set_xticks(range(len(methods)), names)
        axes.set_yticks(range(len(tiers)), study.tier_labels)
        axes.set_ylabel("memory tier")
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for edge in range(1, len(rows[0])):
        axes.axvline(edge - 0.5, color="white", lw=2)
    for edge in range(1, len(rows)):
        axes.axhline(edge - 0.5, color="white", lw=2)
    return figure


def _write(axes: Axes, across: int, down: int, share: Spread, between: str) -> None:
    """Write a share and its interval into its field; hatch the field if it is unknown."""
    style: dict[str, Any] = {"color": "white" if share.mean > 70 else "#222222"}
    style["size"] = 10 / 9 * matplotlib.rcParams["font.size"]
    text = f"{share.mean:.0f}%"
    if not share.known:
        text = "?"
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        hatching: dict[str, Any] = {"facecolor": "white", "edgecolor": PALE, "hatch": "///", "linewidth": 0}
        axes.add_patch(Rectangle((across - 0.5, down - 0.5), 1, 1, **hatching))
    elif share.has_interval and round(share.high) != round(share.low):
        text += f"{between}{share.low:.0f} to {share.high:.0f}"
    axes.text(across, down, text, ha="center", va="center", **style)


def _folded(name: str, characters: int) -> str:
    """Return a name in lines of so many characters, where it has blanks or joins ways by ``+``."""
    words = name.replace("+", "+ ")
    lines = textwrap.wrap(words, characters, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("+ ", "+")


def sentence(study: Study) -> str:
    """Say what excludes nobody."""
    shares = study.spreads("participation_share")
    named = []
    for tier in study.tiers:
        methods = [name for name in study.rivals if shares[name, tier].mean == 1]
        named.append(f"{study.listed(methods) or 'none'} at {tier}")
    return f"Methods that all devices can take part in{study.aside(', {}')}: {'; '.join(named)}."


def grid(study: Study) -> Grid:
    """Return the share of devices that can take part, by method and tier."""
    return by_method(study, "participation_share", "Share of devices that can take part", 0)


FIGURE = ReportFigure(
    name="participation",
    title="Share of devices that can take part",
    draw=draw,
    sentence=sentence,
    grid=grid,
)
