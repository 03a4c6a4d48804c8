"""Accuracy over rounds, operations or bytes, with the steps of schedules."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from profl.bench.report.chance import chance_note, draw_chance
from profl.bench.report.coincidence import coincident, line_width, striped
from profl.bench.report.figure import ReportFigure, has_accuracy
from profl.bench.report.grid import Entry, Grid, over_rounds
from profl.bench.report.ranking import winners
from profl.bench.report.rounds import FEW, round_panels, set_axis
from profl.bench.report.schedule import STRIP, draw_schedules, stepping_methods, strips_note
from profl.bench.report.spread import Spread, over_seeds
from profl.bench.report.study import Study
from profl.bench.report.style import say_empty

COINCIDENT = 2.0
"""Points of accuracy: of curves that are nowhere farther apart, one would hide another."""

MOST_MARKERS = 12
"""On a curve."""


def draw(study: Study) -> Figure:
    """Draw test accuracy over the axis: a panel per tier, a line per method, schedules as strips at the foot."""
    tiers, styles = study.tiers, study.looks
    curves = {(method, tier): curve(study, method, tier) for method in styles for tier in tiers}
    stepping = stepping_methods(study)
    means = {tier: {method: 100 * curves[method, tier]["mean"] for method in styles} for tier in tiers}
    heaps = {tier: coincident(means[tier], COINCIDENT) for tier in tiers}
    notes = [
        *strips_note(study, list(stepping)),
        *striped(heaps, f"{COINCIDENT:.0f} points", study.called),
        *chance_note(study),
        *study.notes,
    ]
    banded = study.seeds > 1 and len(styles) <= FEW
    if study.seeds > 1 and not banded:
        notes.append("No intervals here: the bands of so many methods would hide their lines.")
    title = f"Test accuracy over the {study.axis.name}"
    handles = [
        Line2D([], [], color=look.colour, ls=look.dashes, lw=1.6, label=study.label(method), **look.small_dot)
        for method, look in styles.items()
    ]
    figure, axes = round_panels(study, title, "test accuracy (%)", notes, handles, study.axis_label)
    for panel, tier in zip(axes, tiers, strict=True):
        for method, look in styles.items():
            found = curves[method, tier]
            width = line_width(method, heaps[tier])
            every = math.ceil(len(found) / MOST_MARKERS) or 1
            line: dict[str, Any] = {"color": look.colour, "ls": look.dashes, "lw": width}
            panel.plot(found.index, 100 * found["mean"], markevery=every, **line, **look.small_dot)
            if banded:
                band: dict[str, Any] = {"color": look.colour, "alpha": 0.15, "lw": 0}
                panel.fill_between(found.index, 100 * found["low"], 100 * found["high"], **band)
    if study.rounds["test_accuracy"].isna().all():
        for panel in axes:
            say_empty(panel)
    else:
        for panel in axes:
            draw_chance(panel, study)
    low, high = axes[0].get_ylim()
    axes[0].set_yticks([tick for tick in axes[0].get_yticks() if max(low, 0) <= tick <= high])  # none by the strips
    axes[0].set_ylim(low - STRIP * len(stepping) * (high - low), high)
    set_axis(axes[0], study)
    for panel, tier in zip(axes, tiers, strict=True):
        draw_schedules(panel, {method: steps[tier] for method, steps in stepping.items()}, styles)
    return figure


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
