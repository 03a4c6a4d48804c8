"""The score against the memory needed and the operations spent, with the Pareto front of every tier."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from profl.bench.report.axis import AXES
from profl.bench.report.chance import chance_in_view, chance_note, draw_chance
from profl.bench.report.differences import paired
from profl.bench.report.far_below import lowest_shown
from profl.bench.report.figure import ReportFigure, has_accuracy
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.labels import Label, label_ends
from profl.bench.report.ranking import winners
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.spread import Spread
from profl.bench.report.study import Study
from profl.bench.report.style import GREY, PALE, Legend, Sheet, mebibytes, page, panels, say_empty, settle

LARGEST = 24.0
"""Diameter in points of the marker of what cost most, on a sheet of the usual width."""

PANEL, PANEL_NARROW = 2.25, 1.5
"""Inches that a panel has at least, with its heading; and on a narrow sheet, where all stand one below another."""

SHORT_NAME, FEW = 18, 10
"""Characters of a name, and a number of methods, up to which two panels fit side by side."""


class Point(NamedTuple):
    """A method's result in a tier: memory needed (MiB), mean score (%), operations of local training (may be NaN)."""

    method: str
    x: float
    y: float
    operations: float = math.nan


Better = Callable[[str, str], bool]
"""Whether the seeds tell the first of two methods apart from the second, as the more accurate."""


def points(study: Study, tier: str) -> list[Point]:
    """Return the results of a tier whose accuracy and memory are both known, in display order."""
    accuracy, needed = study.spreads(SCORE), study.spreads("dearest_trained_budget_bytes")
    spent = study.spreads("operations")
    found = [
        Point(method, needed[pair].mean / 2**20, 100 * accuracy[pair].mean, spent[pair].mean)
        for method in study.methods
        for pair in [(method, tier)]
    ]
    return [point for point in found if math.isfinite(point.x) and math.isfinite(point.y)]


def front_of(study: Study, tier: str) -> list[Point]:
    """Return the Pareto front of a tier, by memory: without ideals and what learned nothing; empty with one seed."""
    scores = study.values(SCORE)

    def better(method: str, other: str) -> bool:
        difference = paired(scores[method, tier], scores[other, tier])
        return difference.told_apart and difference.mean > 0

    hopeless = 100 * study.learned_accuracy  # NaN is below nothing
    rivals = [point for point in points(study, tier) if point.method in study.rivals and not point.y < hopeless]
    return pareto_front([point for point in rivals if len(scores[point.method, tier]) > 1], better)


def draw(study: Study) -> Figure:
    """Draw the score against the memory needed, its cost as the marker's area: a panel per tier, with its front."""
    tiers, found = study.tiers, {tier: points(study, tier) for tier in study.tiers}
    drawn = [point for here in found.values() for point in here]
    foot = 100 * lowest_shown(_spreads(study, found))
    shown = {tier: [point for point in here if point.y >= foot] for tier, here in found.items()}
    sheet = study.sheet
    columns = 2 if len(study.methods) <= FEW and study.longest_label <= SHORT_NAME and not sheet.narrow else 1
    columns = min(columns, len(tiers))
    tallest = max(len(here) for here in found.values())
    least = PANEL_NARROW if sheet.narrow else PANEL
    body = 0.2 + max(least, 0.65 * sheet.scale + tallest * sheet.line_points / 72) * math.ceil(len(tiers) / columns)
    names = ("least budget of the dearest trained task (MiB)", "test accuracy (%)")
    title = "Test accuracy against memory needed and operations spent"
    spent = [point.operations for point in drawn if point.operations > 0]
    legend = Legend(_sizes(max(spent), min(spent), sheet), 4, line_inches=0.4) if spent else None
    figure = page(body, title, study.training_setting, _notes(study, found, shown), legend, names, sheet)
    axes = panels(figure, len(tiers), columns)
    for panel, tier in zip(axes, tiers, strict=True):
        panel.set_title(study.tier_label(tier, between=" · ") + " per device")
        panel.margins(y=0.16)
        _draw_points(panel, study, tier, shown[tier], max(spent, default=math.nan))
    if not drawn:
        for panel in axes:
            say_empty(panel)
            panel.set_xticks([])
        return figure
    if chance_in_view(study, _lowest(study, shown)):
        for panel in axes:
            draw_chance(panel, study)
    low, high = _memory_span([point.x for point in drawn])
    room = min(0.6, (study.longest_label * sheet.character_inches + 0.3) / (sheet.width_inches / columns - 0.5))
    axes[0].xaxis.set_major_locator(MaxNLocator(10 if sheet.narrow else 5, steps=[1, 2, 5, 10]))
    axes[0].set_xlim(low, low + (high - low) / (1 - room))
    settle(figure)
    axes[0].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())  # lines and labels must not move them
    axes[0].set_xticks([tick for tick in axes[0].get_xticks() if low <= tick <= high])  # none below the names
    for panel, tier in zip(axes, tiers, strict=True):
        panel.spines["bottom"].set_bounds(low, high)
        front = front_of(study, tier)
        corners = _staircase(front, high)
        panel.plot([x for x, _ in corners], [y for _, y in corners], color=PALE, lw=2.5, zorder=1)
        # Of points at one height, the name of the one farther right is above: the line to the other passes below.
        ends = []
        for point in sorted(found[tier], key=lambda point: (point.y, point.x)):
            look, name, height = study.looks[point.method], study.label(point.method), point.y
            if point not in shown[tier]:
                name, height = f"{name}: {point.y:.0f}", panel.get_ylim()[0]
                panel.plot(point.x, height, ls="", marker="v", ms=6, color=look.colour, clip_on=False)
            ends.append(Label(point.x, height, name, look.ink, "bold" if point in front else "normal"))
        label_ends(panel, ends, high + 0.02 * (high - low))
    return figure


def _draw_points(panel: Axes, study: Study, tier: str, here: Sequence[Point], dearest: float) -> None:
    """Draw the points of a tier with their intervals, the dearest of the figure with the diameter `LARGEST`."""
    accuracy = study.spreads(SCORE)
    for point in sorted(here, key=lambda point: -point.operations):
        look, spread = study.looks[point.method], accuracy[point.method, tier].times(100)
        panel.vlines(point.x, spread.low, spread.high, color=look.colour, lw=1.2)
        if point.operations > 0:
            dashes = "--" if point.method in study.ideals else "-"
            area = _largest(study.sheet) ** 2 * point.operations / dearest
            panel.scatter(point.x, point.y, area, facecolor=(look.ink, 0.12), edgecolor=look.colour, ls=dashes, lw=1)
        panel.plot(point.x, point.y, ls="", marker=".", ms=4, color=look.colour)


def _notes(study: Study, found: Mapping[str, Sequence[Point]], shown: Mapping[str, Sequence[Point]]) -> list[str]:
    """Return what a reader must know of the figure."""
    drawn = [point for here in found.values() for point in here]
    notes = ["Memory is the least budget of the dearest task that any device trained."]
    if any(point.operations > 0 for point in drawn):
        notes.append(
            "Area of a circle: floating-point operations of all local training of the run, mean over its seeds."
        )
    if any(not point.operations > 0 for point in drawn):
        notes.append("A dot without a circle: its operations were not counted.")
    if found != shown:
        notes.append("Triangle at the foot: far below all others, with the score beside the name.")
    if any(point.y < 100 * study.learned_accuracy for point in drawn):
        notes.append(f"Below {100 * study.learned_accuracy:.1f} % nothing was learned: never on the front.")
    if study.seeds > 1:
        notes.append(
            "Bold, on the grey line: the Pareto front. Its methods are told apart, seed by seed, as more accurate than"
            f" all others with less memory, and from none with as much as less accurate{study.aside(' ({})')}."
        )
    return [*notes, *chance_note(study, _lowest(study, shown)), *study.notes, *_not_shown(study)]


def _lowest(study: Study, found: Mapping[str, Sequence[Point]]) -> float:
    """Return down to where the points and their intervals reach, 0 to 1; NaN without points."""
    return min((spread.ends[0] for spread in _spreads(study, found)), default=math.nan)


def _spreads(study: Study, found: Mapping[str, Sequence[Point]]) -> list[Spread]:
    """Return the scores of the points with their intervals, 0 to 1."""
    scores = study.spreads(SCORE)
    return [scores[point.method, tier] for tier, here in found.items() for point in here]


def _memory_span(needed: Sequence[float]) -> tuple[float, float]:
    """Return where an axis of memory begins, never below zero, and where its points end, with some air."""
    low, high = min(needed), max(needed)
    air = 0.12 * (high - low) or 0.12 * high
    return max(0.0, low - air), high + 1.5 * air


def _largest(sheet: Sheet) -> float:
    """Return the diameter of the marker of what cost most, in points."""
    return LARGEST * sheet.scale**2


def _sizes(dearest: float, cheapest: float, sheet: Sheet) -> list[Line2D]:
    """Return the legend of the areas: three round numbers of operations, the largest not above the dearest."""
    told = AXES["operations"].told
    circle: dict[str, Any] = {"ls": "", "marker": "o", "color": GREY, "mfc": "none", "mew": 1}
    return [
        Line2D([], [], ms=_largest(sheet) * math.sqrt(amount / dearest), label=told(amount), **circle)
        for amount in round_sizes(cheapest, dearest)
    ]


def round_sizes(low: float, high: float) -> list[float]:
    """Return three numbers of the series 1, 2, 5, 10, ... evenly spread from ``high`` down towards ``low``."""
    series = [digit * 10.0**power for power in range(-1, 30) for digit in (1, 2, 5)]
    inside = [number for number in series if low <= number <= high]
    last = max(place for place, number in enumerate(series) if number <= high)
    step = max(1, (len(inside) - 1) // 2)
    return [series[max(0, last - lower * step)] for lower in (2, 1, 0)]


def _not_shown(study: Study) -> list[str]:
    """Return a note on finished cells that have an accuracy but no memory to show it against."""
    accuracy, needed = study.spreads(SCORE), study.spreads("dearest_trained_budget_bytes")
    pairs = [pair for pair in accuracy if accuracy[pair].known and not needed[pair].known]
    notes = []
    for reason, idle in (("no device could train", True), ("their memory is unknown", False)):
        found = {tier: [m for m, t in pairs if t == tier and study.idle(m, t) == idle] for tier in study.tiers}
        named = "; ".join(f"{study.listed(methods)} at {tier}" for tier, methods in found.items() if methods)
        if named:
            notes.append(f"Not shown, as {reason}: {named}.")
    return notes


def pareto_front(points: Sequence[Point], better: Better) -> list[Point]:
    """Return, by memory, the points that are better than all with less, while none with as much is better than they.

    What is not told apart from something cheaper is not on it: more memory would have to pay.
    """

    def pays(point: Point) -> bool:
        others = [other for other in points if other != point]
        cheaper = [other for other in others if other.x < point.x]
        alike = [other for other in others if other.x == point.x]
        return all(better(point.method, other.method) for other in cheaper) and not any(
            better(other.method, point.method) for other in alike
        )

    return sorted(filter(pays, points), key=lambda point: (point.x, point.y))


def _staircase(front: Sequence[Point], right: float) -> list[tuple[float, float]]:
    """Return the best accuracy within a budget, as the corners of a rising line that ends at ``right``."""
    corners: list[tuple[float, float]] = []
    for point in front:
        if corners:
            corners.append((point.x, corners[-1][1]))
        corners.append((point.x, point.y))
    return [*corners, (right, corners[-1][1])] if corners else []


def grid(study: Study) -> Grid:
    """Return accuracy beside the memory needed, by tier."""
    groups, scores = {}, study.spreads(SCORE)
    for tier in study.tiers:
        front = front_of(study, tier)
        groups[study.tier_label(tier, between=" · ")] = [
            GridRow(
                study.label(point.method),
                [
                    Entry(mebibytes(point.x * 2**20)),
                    Entry(f"{point.y:.1f} %", tuple(filter(None, [scores[point.method, tier].span]))),
                    Entry(AXES["operations"].told(point.operations)),
                    Entry("?" if study.seeds == 1 else "yes" if point in front else "no"),
                ],
            )
            for point in points(study, tier)
        ]
    columns = ["memory needed (MiB)", SCORE_NAME, "operations of local training", "on the Pareto front"]
    return Grid("Test accuracy against memory needed and operations spent", "tier, method", columns, groups)


FIGURE = ReportFigure(
    name="accuracy_memory_cost",
    title="Accuracy against memory and operations",
    draw=draw,
    sentence=winners,
    grid=grid,
    shown=has_accuracy,
)
