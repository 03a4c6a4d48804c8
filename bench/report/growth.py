"""Memory over the rounds: what training really took, round by round, and whether any of it stayed."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.fleet import format_bytes
from bench.report.study import Study
from bench.report.style import GREY, legend_above, looks, page, panels, say_empty

COLUMNS = ["peak_allocated_bytes", "peak_reserved_bytes", "held_bytes"]
"""What is drawn, of the rounds frame."""


def memory_by_round(study: Study) -> Figure:
    """Draw the memory of local training over the rounds: a panel per tier, a line and a band per method."""
    styles, tiers = looks(study.methods), study.tiers
    curves = {(method, tier): curve(study, method, tier) for method in styles for tier in tiers}
    leaking = any((drawn["held_bytes"] > 0).any() for drawn in curves.values())
    notes = [
        "Line: most that was reserved for any participant of the round. Band below it: down to the most that was"
        " allocated; the rest is what the allocator rounds up, caches and cannot join. Every device starts with an"
        " empty cache.",
        what_stayed(study),
        *study.notes,
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
            panel.plot(reserved, color=look.colour, ls=look.dashes, lw=1.4, drawstyle="steps-mid")
            if leaking:
                panel.plot(held, color=look.colour, ls=":", lw=1.4)
        if all(curves[method, tier].dropna().empty for method in styles):
            say_empty(panel)
        panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=look.colour, ls=look.dashes, lw=1.8, label=method) for method, look in styles.items()
    ]
    if leaking:
        handles.append(Line2D([], [], color=GREY, ls=":", lw=1.4, label="still held"))
    legend_above(figure, handles, columns=7)
    return figure


def curve(study: Study, method: str, tier: str) -> pd.DataFrame:
    """Return `COLUMNS` by round, the mean over the seeds; rounds without participants are NaN."""
    cells = study.cells_of(method, tier)["cell"]
    return study.rounds.loc[study.rounds["cell"].isin(cells)].groupby("round")[COLUMNS].mean()


def leak(slope: float) -> str:
    """Say in a few words what a slope of held bytes over the rounds means; NaN is unknown."""
    if math.isnan(slope):
        return "held: ?"
    return f"{slope:+,.0f} B a round" if slope else "nothing held"


def what_stayed(study: Study) -> str:
    """Say what stayed on the GPU from round to round."""
    slopes = study.figures("held_bytes_per_round")
    growing = {pair: slope.mean for pair, slope in slopes.items() if slope.known and slope.mean > 0}
    if growing:
        named = ", ".join(f"{method} at {tier} {format_bytes(mean)}" for (method, tier), mean in growing.items())
        return f"Held from round to round, and growing in every one by (a leak): {named}."
    if any(slope.known for slope in slopes.values()):
        return "Nothing is held from round to round: no leak."
    return "Whether anything is held from round to round is not known yet."
