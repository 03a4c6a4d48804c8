"""What training really took, round by round, and whether any of it stayed."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from profl.bench.report.coincidence import coincident, line_width, striped
from profl.bench.report.figure import ReportFigure
from profl.bench.report.grid import Entry, Grid, over_rounds
from profl.bench.report.held import what_stayed
from profl.bench.report.rounds import round_panels
from profl.bench.report.spread import Spread
from profl.bench.report.study import Study
from profl.bench.report.style import GREY, mebibytes, say_empty

COLUMNS = ["peak_allocated_bytes", "peak_reserved_bytes", "held_bytes"]
"""What is drawn, of the rounds frame."""

COINCIDENT = 0.01
"""Share of the highest: of curves that are nowhere farther apart, one would hide another."""


def draw(study: Study) -> Figure:
    """Draw the memory of local training over the rounds: a panel per tier, a line and a band per method."""
    styles, tiers = study.looks, study.tiers
    curves = {(method, tier): curve(study, method, tier) for method in styles for tier in tiers}
    reserved_bytes = {tier: {name: curves[name, tier]["peak_reserved_bytes"] for name in styles} for tier in tiers}
    within = COINCIDENT * study.rounds["peak_reserved_bytes"].max()
    heaps = {tier: coincident(reserved_bytes[tier], within) for tier in tiers}
    holding = any((drawn["held_bytes"] > 0).any() for drawn in curves.values())
    of_seeds = f", in any of {study.of_seeds}" if study.seeds > 1 else ""
    notes = [
        f"Line: most that was reserved for any participant of the round{of_seeds}. Band below it: down to the most that"
        " was allocated; the rest is what the allocator rounds up, caches and cannot join. Every device starts with an"
        " empty cache.",
        *striped(heaps, f"{COINCIDENT:.0%} of the highest", study.called),
        what_stayed(study),
        *study.bounds,
        *study.gaps,
    ]
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=look.colour, ls=look.dashes, lw=1.8, label=study.label(method))
        for method, look in styles.items()
    ]
    if holding:
        handles.append(Line2D([], [], color=GREY, ls=":", lw=1.4, label="still held"))
    title = "Memory of local training over the rounds"
    figure, axes = round_panels(study, title, "memory (MiB)", notes, handles)
    for panel, tier in zip(axes, tiers, strict=True):
        for method, look in styles.items():
            drawn = curves[method, tier] / 2**20
            allocated, reserved, held = (drawn[column] for column in COLUMNS)
            panel.fill_between(drawn.index, allocated, reserved, color=look.colour, alpha=0.18, lw=0, step="mid")
            width = line_width(method, heaps[tier])
            panel.plot(reserved, color=look.colour, ls=look.dashes, lw=width, drawstyle="steps-mid")
            if holding:
                panel.plot(held, color=look.colour, ls=":", lw=1.4)
        if all(curves[method, tier].dropna().empty for method in styles):
            say_empty(panel)
        panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
    axes[0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    return figure


def curve(study: Study, method: str, tier: str) -> pd.DataFrame:
    """Return `COLUMNS` by round, the most of any seed; rounds without participants are NaN."""
    cells = study.cells_of(method, tier)["cell"]
    return study.rounds.loc[study.rounds["cell"].isin(cells)].groupby("round")[COLUMNS].max()


def grid(study: Study) -> Grid:
    """Return the most reserved for any participant, of all rounds or of some evenly spread and the last."""

    def entry(most: Spread) -> Entry:
        return Entry(mebibytes(most.mean))

    reserved_bytes = study.rounds["peak_reserved_bytes"]
    return over_rounds(study, reserved_bytes, "Most reserved for any participant (MiB)", "round", entry)


def _shown(study: Study) -> bool:
    return study.memory_only or bool(study.rounds["peak_reserved_bytes"].notna().any())


FIGURE = ReportFigure(
    name="memory_by_round",
    title="Memory over the rounds",
    draw=draw,
    sentence=lambda study: " ".join([what_stayed(study), *study.out_of_memory]),
    grid=grid,
    shown=_shown,
)
