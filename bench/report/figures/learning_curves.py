"""Accuracy over rounds, operations or bytes: a small panel per method and tier, with the other methods in grey."""

from __future__ import annotations

import textwrap
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from profl.bench.report.chance import chance_note, draw_chance
from profl.bench.report.figure import ReportFigure, has_accuracy
from profl.bench.report.grid import Entry, Grid, over_rounds
from profl.bench.report.looks import Look
from profl.bench.report.ranking import winners
from profl.bench.report.rounds import set_axis
from profl.bench.report.schedule import draw_schedules, stepping_methods, strips_note
from profl.bench.report.spread import Spread, over_seeds
from profl.bench.report.study import Study
from profl.bench.report.style import PALE, page, panels, say_empty, settle

COLUMNS = 4
"""Panels side by side where there is one tier; else a row has every tier of one method."""

PANEL, FEW, TALL = 0.8, 2, 1.6
"""Inches of a panel from top to bottom, without its heading and foot; and in so few rows, or fewer."""

FOOT = 0.28
"""Height of the strip of a schedule with its names, as a share of the height of the curves above."""


def draw(study: Study) -> Figure:
    """Draw test accuracy over the axis: a panel per method and tier, its interval as a band, schedules at the foot."""
    pairs = list(product(study.methods, study.tiers))
    curves = {pair: curve(study, *pair) for pair in pairs}
    stepping = stepping_methods(study)
    alone = len(study.tiers) == 1
    sheet = study.sheet
    side_by_side = max(1, round(COLUMNS * sheet.room))
    columns = min(side_by_side, len(study.methods)) if alone else len(study.tiers)
    width = (sheet.width_inches - 0.6 * sheet.scale) / columns
    characters = int(width / sheet.character_inches) if alone else int(100 * sheet.room)
    names = {name: textwrap.wrap(study.label(name), characters, break_on_hyphens=False) for name in study.methods}
    rows = [pairs[first : first + columns] for first in range(0, len(pairs), columns)]
    feet = [FOOT * any(method in stepping for method, _ in row) for row in rows]
    heading = 0.1 + 0.16 * max(map(len, names.values()))
    tall = TALL if len(rows) <= FEW else PANEL
    body = sheet.scale * (0.75 + sum(tall * (1 + foot) + heading for foot in feet))
    band = ", with its interval as a band" if study.seeds > 1 else ""
    others = " Grey: all others in that tier." if len(study.methods) > 1 else ""
    notes = [
        f"In colour: the method named above{'' if alone else ' at the left'}{band}.{others}",
        *strips_note(study, list(stepping)),
        *chance_note(study),
        *study.notes,
    ]
    title = f"Test accuracy over the {study.axis.name}"
    axis_names = (study.axis_label, "test accuracy (%)")
    figure = page(body, title, study.training_setting, notes, axis_names=axis_names, sheet=sheet)
    axes = panels(figure, len(pairs), columns, [1 + foot for foot in feet])
    for place, (panel, (method, tier)) in enumerate(zip(axes, pairs, strict=True)):
        behind = [curves[other, tier] for other in study.methods if other != method]
        _draw_curve(panel, study.looks[method], curves[method, tier], behind)
        draw_chance(panel, study)
        if alone or place % columns == 0:
            weight = "bold" if method == study.highlight else "normal"
            look: dict[str, Any] = {"color": study.looks[method].ink, "fontsize": 9 * sheet.scale, "fontweight": weight}
            panel.set_title("\n".join(names[method]), **look)
        if place < len(study.tiers):
            head = tier if sheet.narrow and not alone else f"{study.tier_label(tier)} per device"
            _head(panel, head, sheet.scale * (16 + 12 * len(names[method])))
    if study.rounds["test_accuracy"].isna().all():
        for panel in axes:
            say_empty(panel)
    limits = [panel.get_ylim() for panel in axes]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    ticks = [tick for tick in (0, 25, 50, 75, 100) if max(low, 0) <= tick <= high]  # none by the strips
    for place, panel in enumerate(axes):
        panel.set_yticks(ticks)
        panel.set_ylim(low - feet[place // columns] * (high - low), high)
    set_axis(axes[0], study, ticks=int(2 * width))
    settle(figure)
    for place, (panel, (method, tier)) in enumerate(zip(axes, pairs, strict=True)):
        if method in stepping:
            draw_schedules(panel, {method: stepping[method][tier]}, study.looks, width)
        elif foot := feet[place // columns]:  # beside one that has steps
            left, bottom, across, up = panel.get_position().bounds
            panel.set_position((left, bottom + up * foot / (1 + foot), across, up / (1 + foot)))
            panel.set_ylim(low, high)
    return figure


def _draw_curve(panel: Axes, look: Look, found: pd.DataFrame, behind: list[pd.DataFrame]) -> None:
    """Draw a method's curve and its band before the curves of others."""
    lines = [list(zip(other.index, 100 * other["mean"], strict=True)) for other in behind if len(other)]
    panel.add_collection(LineCollection(lines, colors=PALE, lw=0.8, zorder=1), autolim=False)
    panel.plot(found.index, 100 * found["mean"], color=look.colour, ls=look.dashes, lw=1.6)
    panel.fill_between(found.index, 100 * found["low"], 100 * found["high"], color=look.colour, alpha=0.22, lw=0)


def _head(panel: Axes, text: str, points: float) -> None:
    """Write a tier above a panel, so many points from its upper edge."""
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    panel.annotate(text, (0, 1), xytext=(0, points), weight="bold", va="bottom", linespacing=1.15, **above)


def curve(study: Study, method: str, tier: str) -> pd.DataFrame:
    """Return accuracy (``mean``, ``low``, ``high``) over seeds, by where their tests lie on the axis on average.

    Cells that are not done count only as long as none is.
    """
    cells = study.cells_of(method, tier)
    done = cells.loc[cells["status"] == "done"]
    chosen = cells if done.empty else done
    rounds = study.rounds.assign(progress=study.progress)
    tested = rounds.loc[rounds["cell"].isin(chosen["cell"])].dropna(subset=["test_accuracy", "progress"])
    by_round = tested.groupby("round")
    spreads = [over_seeds(accuracies.to_list(), share=True) for _, accuracies in by_round["test_accuracy"]]
    return pd.DataFrame(spreads, columns=["mean", "low", "high"], index=by_round["progress"].mean(), dtype=float)


def grid(study: Study) -> Grid:
    """Return test accuracy by evaluated round: of all of them, or of some evenly spread and the last."""

    def entry(accuracy: Spread) -> Entry:
        return Entry(accuracy.percent())

    return over_rounds(study, study.rounds["test_accuracy"], "Test accuracy over the rounds", "evaluated round", entry)


FIGURE = ReportFigure(
    name="learning_curves",
    title="Accuracy over training",
    draw=draw,
    sentence=winners,
    grid=grid,
    shown=has_accuracy,
)
