"""Accuracy over the rounds, with the steps of schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from profl.bench.report.chance import chance_note, draw_chance
from profl.bench.report.coincidence import coincident, line_width, striped
from profl.bench.report.figure import ReportFigure, has_accuracy
from profl.bench.report.grid import Entry, Grid, over_rounds
from profl.bench.report.looks import Look
from profl.bench.report.ranking import winners
from profl.bench.report.rounds import LEGEND_COLUMNS, round_panels
from profl.bench.report.study import Spread, Study
from profl.bench.report.style import legend_above, say_empty

STRIP = 0.15
"""Height of a schedule's strip with its names, as a share of the height of the curves above."""

NAME_WIDTH = 0.15
"""Share of a panel's width that the name of a stage takes."""

COINCIDENT = 2.0
"""Points of accuracy: of curves that are nowhere farther apart, one would hide another."""

MOST_MARKERS = 12
"""On a curve."""


def draw(study: Study) -> Figure:
    """Draw test accuracy over the rounds: a panel per tier, a line per method, schedules as strips at the foot."""
    tiers, styles = study.tiers, study.looks
    curves = {(method, tier): 100 * _curve(study, method, tier) for method in styles for tier in tiers}
    steps = {(method, tier): schedule(study, method, tier) for method in styles for tier in tiers}
    stepping = [method for method in styles if any(steps[method, tier] for tier in tiers)]
    means = {tier: {method: curves[method, tier]["mean"] for method in styles} for tier in tiers}
    heaps = {tier: coincident(means[tier], COINCIDENT) for tier in tiers}
    notes = [*striped(heaps, f"{COINCIDENT:.0f} points"), *chance_note(study), *study.notes]
    if stepping:
        seed = " (its first seed)" if study.seeds > 1 else ""
        notes.insert(
            0,
            f"Strips at the foot: the steps of {', '.join(stepping)}{seed}, in turn dark and pale; a stage is named"
            " where it begins, if there is room.",
        )
    figure, axes = round_panels(study, "Test accuracy over the rounds", "test accuracy (%)", notes)
    for panel, tier in zip(axes, tiers, strict=True):
        for method, look in styles.items():
            curve = curves[method, tier]
            width = line_width(method, heaps[tier])
            every = math.ceil(len(curve) / MOST_MARKERS) or 1
            line: dict[str, Any] = {"color": look.colour, "ls": look.dashes, "lw": width}
            panel.plot(curve.index, curve["mean"], markevery=every, **line, **look.small_dot)
            if study.seeds > 1:
                panel.fill_between(curve.index, curve["low"], curve["high"], color=look.colour, alpha=0.15, lw=0)
    if study.rounds["test_accuracy"].isna().all():
        for panel in axes:
            say_empty(panel)
    else:
        for panel in axes:
            draw_chance(panel, study)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low - STRIP * len(stepping) * (high - low), high)
    axes[0].set_xlim(0, 1.02 * max(1, study.cells["rounds"].max()))
    axes[0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    for panel, tier in zip(axes, tiers, strict=True):
        for place, method in enumerate(stepping):
            foot = place * STRIP / (1 + STRIP * len(stepping))
            last = int(study.cells_of(method, tier)["rounds"].iloc[:1].sum())
            _draw_schedule(panel, steps[method, tier], last, styles[method], foot)
    handles = [
        Line2D([], [], color=look.colour, ls=look.dashes, lw=1.6, label=study.label(method), **look.small_dot)
        for method, look in styles.items()
    ]
    legend_above(figure, handles, columns=LEGEND_COLUMNS)
    return figure


def _curve(study: Study, method: str, tier: str) -> pd.DataFrame:
    """Return accuracy by round over seeds; cells that are not done count only as long as none is."""
    cells = study.cells_of(method, tier)
    done = cells.loc[cells["status"] == "done"]
    chosen = cells if done.empty else done
    rounds = study.rounds.loc[study.rounds["cell"].isin(chosen["cell"])].dropna(subset=["test_accuracy"])
    by_round = rounds.groupby("round")["test_accuracy"]
    return pd.DataFrame({"mean": by_round.mean(), "low": by_round.min(), "high": by_round.max()})


def schedule(study: Study, method: str, tier: str) -> list[tuple[int, str]]:
    """Return the rounds in which the first seed entered a phase, with the phase; empty if it has only one."""
    cells = study.cells_of(method, tier)["cell"].tolist()
    rounds = study.rounds.loc[study.rounds["cell"].isin(cells[:1])]
    phases = list(zip(rounds["round"].tolist(), rounds["phase"].astype(str).tolist(), strict=True))
    moves = [later for earlier, later in pairwise(phases) if later[1] != earlier[1]]
    return [phases[0], *moves] if moves else []


def _draw_schedule(panel: Axes, steps: Sequence[tuple[int, str]], last: int, look: Look, foot: float) -> None:
    """Draw steps up to the round ``last`` as a strip ``foot`` (of the panel) above its lower edge.

    ``grow`` of ``grow 2/4`` is the stage.
    """
    low, high = panel.get_ylim()
    floor, thickness = low + (foot + 0.01) * (high - low), 0.03 * (high - low)
    seen, free = set(), -math.inf
    for place, ((number, phase), (end, _)) in enumerate(pairwise([*steps, (last + 1, "")])):
        alpha = 0.4 if place % 2 else 0.9
        panel.barh(floor, end - number, thickness, number - 0.5, align="edge", color=look.colour, alpha=alpha, lw=0)
        stage = phase.split()[0]
        # Named where it first begins or not at all: beside a later step the name would mislead.
        if stage not in seen and number >= free:
            above: dict[str, Any] = {"textcoords": "offset points", "color": look.ink}
            panel.annotate(stage, (number - 0.5, floor + thickness), xytext=(0, 2), **above)
            free = number + NAME_WIDTH * panel.get_xlim()[1]
        seen.add(stage)


def grid(study: Study) -> Grid:
    """Return test accuracy by evaluated round: of all of them, or of some evenly spread and the last."""

    def entry(accuracy: float) -> Entry:
        return Entry(Spread(accuracy, accuracy, accuracy).percent())

    return over_rounds(study, "test_accuracy", "Test accuracy over the rounds", "evaluated round", entry)


FIGURE = ReportFigure(
    name="learning_curves",
    title="Accuracy over the rounds",
    draw=draw,
    sentence=winners,
    grid=grid,
    shown=has_accuracy,
)
