"""The score by memory tier."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from profl.bench.report.chance import chance_note, draw_chance
from profl.bench.report.figure import ReportFigure, has_accuracy
from profl.bench.report.grid import Grid, by_method
from profl.bench.report.labels import Label, label_ends
from profl.bench.report.ranking import winners
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.study import Study
from profl.bench.report.style import GREY, PALE, page, say_empty, settle

DODGE = 0.035
"""Methods stand side by side by a hair, as equal results must not hide each other."""

KINDS_GAP = 0.35
"""What sets mixed fleets and uniform tiers apart, in places of a tier."""

NAME_SHARE = 0.0085
"""Share of the figure's width that a character of a name takes."""


def draw(study: Study) -> Figure:
    """Draw the score against tier: a line per method over the uniform tiers, mixed fleets beside it."""
    accuracy = study.spreads(SCORE)
    tiers, styles = study.tiers, study.looks
    uniform = [tier for tier in tiers if tier not in study.mixed]
    gap = KINDS_GAP if 0 < len(uniform) < len(tiers) else 0.0
    places = {tier: place + gap * (tier in uniform) for place, tier in enumerate(tiers)}
    notes = [*chance_note(study), *study.notes]
    if any(study.idle(*pair) for pair in accuracy):
        notes.insert(0, "Hollow: no device could train; the accuracy is that of the untrained model.")
    if gap:
        notes.insert(0, "A mixed fleet is another kind of tier: its devices differ in memory, so no line leads to it.")
    title = "Test accuracy by memory tier, mean of the last five tests"
    figure = page(4.3, title, study.training_setting, notes)
    axes = figure.subplots()
    ends = []
    for place, (method, look) in enumerate(styles.items()):
        aside = DODGE * (place - (len(styles) - 1) / 2)
        spreads = {tier: accuracy[method, tier].times(100) for tier in tiers}
        line = [(places[tier] + aside, spreads[tier].mean) for tier in uniform]
        axes.plot([x for x, _ in line], [y for _, y in line], color=look.colour, ls=look.dashes, lw=1.6)
        for tier, spread in spreads.items():
            x = places[tier] + aside
            axes.vlines(x, spread.low, spread.high, color=look.colour, lw=1.2)
            axes.plot(x, spread.mean, ls="", **look.dot(hollow=study.idle(method, tier)))
        known = [(places[tier] + aside, spread.mean) for tier, spread in spreads.items() if spread.known]
        if known:
            weight = "bold" if method == study.highlight else "normal"
            ends.append(Label(*known[-1], study.label(method), look.ink, weight))
    last = len(tiers) - 1 + gap
    column = last + DODGE * len(styles) / 2 + 0.03 * len(tiers)
    axes.set_xticks(list(places.values()), study.tier_labels)
    names = min(NAME_SHARE * study.longest_label, 0.6)
    axes.set_xlim(
        -0.3, column + max(0.19 * len(tiers), (column + 0.3) * names / (1 - names))
    )  # with room for the labels
    axes.set_xlabel("memory tier, with the memory of its devices")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(axis="x", visible=False)
    axes.spines["bottom"].set_bounds(-0.3, last + 0.3)
    if gap:
        _head_kinds(axes, len(tiers) - len(uniform), last)
    if ends:
        draw_chance(axes, study)
    else:
        say_empty(axes)
    settle(figure)
    label_ends(axes, ends[::-1], column)  # of equal ends, the first in display order comes out on top
    return figure


def _head_kinds(axes: Axes, mixed: int, last: float) -> None:
    """Part the first ``mixed`` tiers from the uniform ones, and say above what they are."""
    axes.axvline(mixed - 0.5 + KINDS_GAP / 2, color=PALE, lw=1)
    for middle, kind in (((mixed - 1) / 2, "mixed fleet"), ((mixed + KINDS_GAP + last) / 2, "all devices alike")):
        above: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(kind, (middle, 1), xytext=(0, 3), ha="center", color=GREY, **above)


def grid(study: Study) -> Grid:
    """Return the score by method and tier."""
    return by_method(study, SCORE, f"{SCORE_NAME.capitalize()}, by memory tier", 1)


FIGURE = ReportFigure(
    name="accuracy_by_tier",
    title="Accuracy by memory tier",
    draw=draw,
    sentence=winners,
    grid=grid,
    shown=has_accuracy,
)
