"""Whether training converges: the norm of the gradient of the loss at every test, step by step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from profl.bench.report.figure import ReportFigure
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.rounds import round_panels, set_axis
from profl.bench.report.schedule import STRIP, draw_schedules, stepping_methods, strips_note
from profl.bench.report.study import Study
from profl.bench.report.style import PowersOfTen, say_empty


class Piece(NamedTuple):
    """What one seed's tests in one phase found: norms by their place on the axis, unknown ones left out."""

    phase: str
    norms: pd.Series

    @property
    def fell(self) -> bool:
        """Whether the last is below the first."""
        return bool(self.norms.iloc[-1] < self.norms.iloc[0])


def pieces(study: Study, method: str, tier: str) -> Iterator[Piece]:
    """Yield the phases of every seed in turn; norms of different phases are of different parameters."""
    for cell in study.cells_of(method, tier)["cell"]:
        rounds = study.rounds.loc[study.rounds["cell"] == cell].assign(progress=study.progress)
        for phase, rows in groupby(rounds.index, key=rounds["phase"].get):
            norms = rounds.loc[list(rows)].dropna(subset=["gradient_norm", "progress"])
            norms = norms.loc[norms["gradient_norm"] > 0]  # a logarithmic axis has no zero
            if len(norms):
                yield Piece(str(phase), norms.set_index("progress")["gradient_norm"].astype(float))


def draw(study: Study) -> Figure:
    """Draw the gradient's norm over the axis: a panel per tier, a line per method, seed and phase."""
    styles, stepping = study.looks, stepping_methods(study)
    shown = [method for method in styles if any(any(pieces(study, method, tier)) for tier in study.tiers)]
    each = " A line per seed," if study.seeds > 1 else " A line"
    notes = [
        "2-norm of the gradient of the loss of what is trained first, over a named sample of the training data, with"
        f" respect to the parameters being trained.{each} broken where a step ends, as the next trains others.",
        *strips_note(study, list(stepping)),
        *study.bounds,
        *study.gaps,
    ]
    title = f"Convergence: norm of the gradient over the {study.axis.name}"
    handles = [
        Line2D([], [], color=look.colour, ls=look.dashes, lw=1.2, marker=".", ms=4, label=study.label(method))
        for method, look in styles.items()
        if method in shown
    ]
    figure, axes = round_panels(study, title, "2-norm of the gradient", notes, handles, study.axis_label)
    for panel, tier in zip(axes, study.tiers, strict=True):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(PowersOfTen())
        panel.yaxis.set_minor_formatter(PowersOfTen(minor_thresholds=(1, 0.4), labelOnlyBase=False))
        for method in shown:
            look = styles[method]
            for piece in pieces(study, method, tier):
                panel.plot(piece.norms, color=look.colour, ls=look.dashes, lw=1.2, marker=".", ms=4)
    if not shown:
        for panel in axes:
            say_empty(panel)
    low, high = np.log(axes[0].get_ylim())
    axes[0].set_ylim(np.exp(low - STRIP * len(stepping) * (high - low)), np.exp(high))
    set_axis(axes[0], study)
    for panel, tier in zip(axes, study.tiers, strict=True):
        draw_schedules(panel, {method: steps[tier] for method, steps in stepping.items()}, styles)
    return figure


def sentence(study: Study) -> str:
    """Say in how many steps of how many the norm fell, from the first test to the last."""
    named = []
    for method in study.methods:
        found = [piece for tier in study.tiers for piece in pieces(study, method, tier) if len(piece.norms) > 1]
        if found:
            named.append(f"{study.called(method)} in {sum(piece.fell for piece in found)} of {len(found)}")
    of_all = "over all tiers and seeds" if study.seeds > 1 else "over all tiers"
    return f"The gradient's norm falls from the first test of a step to the last: {', '.join(named)} ({of_all})."


def grid(study: Study) -> Grid:
    """Return the norm at the first and the last test of every step, the mean over the seeds."""
    groups = {}
    for method in study.methods:
        by_step: dict[str, dict[str, list[Piece]]] = defaultdict(lambda: defaultdict(list))
        for tier in study.tiers:
            for piece in pieces(study, method, tier):
                by_step[piece.phase][tier].append(piece)
        if by_step:
            groups[study.label(method)] = [
                GridRow(phase, [_entry(found[tier]) for tier in study.tiers]) for phase, found in by_step.items()
            ]
    note = f"From the first test of the step to the last, mean of {study.of_seeds}."
    caption = "Norm of the gradient, by step"
    return Grid(caption, "method, step", study.tier_labels, groups, note, unknown="not tested")


def _entry(found: list[Piece]) -> Entry:
    if not found:
        return Entry("?")
    first, last = (np.mean([piece.norms.iloc[end] for piece in found]) for end in (0, -1))
    return Entry(f"{first:.3g} to {last:.3g}", (f"falls in {sum(piece.fell for piece in found)} of {len(found)}",))


def _shown(study: Study) -> bool:
    return bool(study.rounds["gradient_norm"].notna().any())


FIGURE = ReportFigure(
    name="convergence",
    title="Norm of the gradient",
    draw=draw,
    sentence=sentence,
    grid=grid,
    shown=_shown,
)
