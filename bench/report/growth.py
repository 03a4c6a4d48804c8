"""Memory over the rounds: what training really took, round by round, and whether any of it stayed."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from profl.bench.held import HELD, NOTHING_HELD, describe_held
from profl.bench.report.coincidence import coincident, line_width, striped
from profl.bench.report.study import Study
from profl.bench.report.style import GREY, legend_above, looks, page, panels, say_empty

COLUMNS = ["peak_allocated_bytes", "peak_reserved_bytes", "held_bytes"]
"""What is drawn, of the rounds frame."""

COINCIDENT = 0.01
"""Share of the highest: of curves that are nowhere farther apart, one would hide another."""


def memory_by_round(study: Study) -> Figure:
    """Draw the memory of local training over the rounds: a panel per tier, a line and a band per method."""
    styles, tiers = looks(study.methods), study.tiers
    curves = {(method, tier): curve(study, method, tier) for method in styles for tier in tiers}
    reserved_bytes = {tier: {name: curves[name, tier]["peak_reserved_bytes"] for name in styles} for tier in tiers}
    within = COINCIDENT * study.rounds["peak_reserved_bytes"].max()
    heaps = {tier: coincident(reserved_bytes[tier], within) for tier in tiers}
    holding = any((drawn["held_bytes"] > 0).any() for drawn in curves.values())
    of_seeds = f", in any of {study.seeds} seeds" if study.seeds > 1 else ""
    notes = [
        f"Line: most that was reserved for any participant of the round{of_seeds}. Band below it: down to the most that"
        " was allocated; the rest is what the allocator rounds up, caches and cannot join. Every device starts with an"
        " empty cache.",
        *striped(heaps, f"{COINCIDENT:.0%} of the highest"),
        what_stayed(study),
        *study.bounds,
        *study.gaps,
    ]
    title, names = "Memory of local training over the rounds", ("round", "memory (MiB)")
    height, legend = 0.2 + 2.1 * math.ceil(len(tiers) / 2), 0.05 + 0.2 * math.ceil(len(styles) / 7)
    figure = page(height, title, study.training_setting, notes, legend, names)
    axes = panels(figure, len(tiers))
    for panel, tier in zip(axes, tiers, strict=True):
        panel.set_title(study.tier_label(tier, between=" · ") + " per device")
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
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=look.colour, ls=look.dashes, lw=1.8, label=method) for method, look in styles.items()
    ]
    if holding:
        handles.append(Line2D([], [], color=GREY, ls=":", lw=1.4, label="still held"))
    legend_above(figure, handles, columns=7)
    return figure


def curve(study: Study, method: str, tier: str) -> pd.DataFrame:
    """Return `COLUMNS` by round, the most of any seed; rounds without participants are NaN."""
    cells = study.cells_of(method, tier)["cell"]
    return study.rounds.loc[study.rounds["cell"].isin(cells)].groupby("round")[COLUMNS].max()


def held(study: Study, method: str, tier: str) -> str:
    """Say what stayed on the GPU from round to round, in the worst of the seeds."""
    return describe_held(*(study.figures(name)[method, tier].high for name in HELD))


def what_stayed(study: Study) -> str:
    """Say what stayed on the GPU from round to round, in all that was run."""
    told = {(method, tier): held(study, method, tier) for method in study.methods for tier in study.tiers}
    known = {pair: text for pair, text in told.items() if study.figures(HELD[0])[pair].known}
    holding = [f"{method} at {tier} {text}" for (method, tier), text in known.items() if text != NOTHING_HELD]
    if holding:
        return f"Still allocated after a round (what grows in most rounds is a leak): {'; '.join(holding)}."
    if known:
        return "Nothing is held from round to round: no leak."
    return "Whether anything is held from round to round is not known yet."
