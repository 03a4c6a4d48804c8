"""The score by memory tier."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from profl.bench.report.chance import chance_in_view, chance_note, draw_chance
from profl.bench.report.figure import ReportFigure, has_accuracy
from profl.bench.report.grid import Grid, by_method
from profl.bench.report.labels import Label, label_ends
from profl.bench.report.ranking import winners
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.spread import UNKNOWN
from profl.bench.report.study import Study
from profl.bench.report.style import GREY, PALE, WIDTH, page, say_empty, settle

DODGE = 0.035
"""Methods stand side by side by a hair, as equal results must not hide each other."""

KINDS_GAP = 0.35
"""What sets mixed fleets and uniform tiers apart, in places of a tier."""

UPRIGHT = 0.6
"""Inches beside the axes, for the numbers of the accuracy and its name: much of a sheet that is narrow."""

FOOT = 0.1
"""Height of the strip at the foot for those whom nobody could train for, as a share of the height above."""


def draw(study: Study) -> Figure:
    """Draw the score against tier: a line per method over the uniform tiers, mixed fleets beside it."""
    accuracy = study.spreads(SCORE)
    tiers, styles = study.tiers, study.looks
    uniform = [tier for tier in tiers if tier not in study.mixed]
    gap = KINDS_GAP if 0 < len(uniform) < len(tiers) else 0.0
    places = {tier: place + gap * (tier in uniform) for place, tier in enumerate(tiers)}
    trained = {pair: spread for pair, spread in accuracy.items() if not study.idle(*pair)}
    known = [spread for spread in trained.values() if spread.known]
    lowest = min((spread.low if spread.has_interval else spread.mean for spread in known), default=math.nan)
    notes = [*chance_note(study, lowest), *study.notes]
    if len(trained) < len(accuracy):
        notes.insert(
            0, "Hollow, at the foot: no device could train, so there is no accuracy but the untrained model's."
        )
    if gap:
        notes.insert(0, "A mixed fleet is another kind of tier: its devices differ in memory, so no line leads to it.")
    title = "Test accuracy by memory tier, mean of the last five tests"
    sheet = study.sheet
    figure = page(_height(study), title, study.training_setting, notes, sheet=sheet)
    axes = figure.subplots()
    ends = []
    for place, (method, look) in enumerate(styles.items()):
        aside = DODGE * (place - (len(styles) - 1) / 2)
        spreads = {tier: trained.get((method, tier), UNKNOWN).times(100) for tier in tiers}
        line = [(places[tier] + aside, spreads[tier].mean) for tier in uniform]
        axes.plot([x for x, _ in line], [y for _, y in line], color=look.colour, ls=look.dashes, lw=1.6)
        for tier, spread in spreads.items():
            x = places[tier] + aside
            axes.vlines(x, spread.low, spread.high, color=look.colour, lw=1.2)
            axes.plot(x, spread.mean, ls="", **look.dot())
        shown = [(places[tier] + aside, spread.mean) for tier, spread in spreads.items() if spread.known]
        if shown:
            weight = "bold" if method == study.highlight else "normal"
            ends.append(Label(*shown[-1], study.label(method), look.ink, weight))
    last = len(tiers) - 1 + gap
    column = last + DODGE * len(styles) / 2 + 0.03 * len(tiers)
    axes.set_xticks(list(places.values()), study.tier_labels)
    inside = sheet.width_inches - (UPRIGHT if sheet.width_inches < WIDTH else 0.0)
    names = min(sheet.character_inches / inside * study.longest_label, 0.6)
    left = -max(0.3, DODGE * (len(styles) + 1) / 2)
    axes.set_xlim(
        left, column + max(0.19 * len(tiers), (column - left) * names / (1 - names))
    )  # with room for the labels
    axes.set_xlabel("memory tier, with the memory of its devices")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(axis="x", visible=False)
    axes.spines["bottom"].set_bounds(left, last - left)
    if gap:
        _head_kinds(axes, len(tiers) - len(uniform), last)
    if not ends:
        say_empty(axes)
    elif chance_in_view(study, lowest):
        draw_chance(axes, study)
    if len(trained) < len(accuracy):
        ends += _draw_idle(axes, study, places)
    settle(figure)
    label_ends(axes, ends[::-1], column)  # of equal ends, the first in display order comes out on top
    return figure


def _height(study: Study) -> float:
    """Return how high the axes are, in inches: on a narrow sheet less, but room for a label of every method."""
    sheet = study.sheet
    return max(2.3, 0.8 + sheet.line_points / 72 * len(study.methods)) if sheet.narrow else 4.3


def _draw_idle(axes: Axes, study: Study, places: Mapping[str, float]) -> list[Label]:
    """Put a hollow mark into a strip below the accuracies for every method and tier in which nobody could train.

    Return the labels of methods that have no other mark.
    """
    labels = []
    low, high = axes.get_ylim()
    foot = low - FOOT / 2 * (high - low)
    looks = list(study.looks.items())
    for place, (method, look) in enumerate(looks):
        aside = DODGE * (place - (len(looks) - 1) / 2)
        idle = [tier for tier in study.tiers if study.idle(method, tier)]
        for tier in idle:
            axes.plot(places[tier] + aside, foot, ls="", **look.dot(hollow=True))
        if len(idle) == len(study.tiers):
            weight = "bold" if method == study.highlight else "normal"
            labels.append(Label(places[idle[-1]] + aside, foot, study.label(method), look.ink, weight))
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    names = [f"{tick:g}" for tick in ticks]
    axes.axhline(low, color=PALE, lw=1, zorder=0.9)
    axes.set_yticks([*ticks, foot], [*names, "nobody\ncan train"])
    axes.set_ylim(low - FOOT * (high - low), high)
    return labels


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
