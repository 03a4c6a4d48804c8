"""The score against the memory needed, with the Pareto front of every tier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from matplotlib.figure import Figure

from profl.bench.report.chance import chance_note, draw_chance
from profl.bench.report.differences import paired
from profl.bench.report.figure import ReportFigure, has_accuracy
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.labels import Label, label_points
from profl.bench.report.ranking import winners
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.study import Study
from profl.bench.report.style import PALE, mebibytes, page, panels, say_empty, settle


class Point(NamedTuple):
    """A method's result in a tier: memory needed (MiB) and mean score (%)."""

    method: str
    x: float
    y: float


Better = Callable[[str, str], bool]
"""Whether the seeds tell the first of two methods apart from the second, as the more accurate."""


def points(study: Study, tier: str) -> list[Point]:
    """Return the results of a tier whose accuracy and memory are both known, in display order."""
    accuracy, needed = study.spreads(SCORE), study.spreads("dearest_trained_budget_bytes")
    found = [
        Point(method, needed[method, tier].mean / 2**20, 100 * accuracy[method, tier].mean) for method in study.methods
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
    """Draw the score against the memory needed: a panel per tier, with its Pareto front."""
    accuracy = study.spreads(SCORE)
    tiers, styles = study.tiers, study.looks
    found = {tier: points(study, tier) for tier in tiers}
    notes = [
        "Memory is the least budget of the dearest task that any device trained. Names in a stack: points in a heap,"
        " the most accurate first.",
        *chance_note(study),
        *study.notes,
        *_not_shown(study),
    ]
    if study.seeds > 1:
        notes.insert(
            1,
            "Bold, on the grey line: the Pareto front. Its methods are told apart, seed by seed, as more accurate than"
            f" all others with less memory, and from none with as much as less accurate{study.aside(' ({})')}.",
        )
    if any(point.y < 100 * study.learned_accuracy for here in found.values() for point in here):
        notes.insert(1, f"Below {100 * study.learned_accuracy:.1f} % nothing was learned: never on the front.")
    title = "Test accuracy, mean of the last five tests, against memory needed"
    names = ("least budget of the dearest trained task (MiB)", "test accuracy (%)")
    height = 0.2 + 2.25 * math.ceil(len(tiers) / 2)
    figure = page(height, title, study.training_setting, notes, axis_names=names)
    axes = panels(figure, len(tiers))
    for panel, tier in zip(axes, tiers, strict=True):
        panel.set_title(study.tier_label(tier, between=" · ") + " per device")
        panel.margins(x=0.12, y=0.16)
        for method, x, y in found[tier]:
            spread, look = accuracy[method, tier].times(100), styles[method]
            panel.vlines(x, spread.low, spread.high, color=look.colour, lw=1.2)
            panel.plot(x, y, ls="", **look.dot())
    across = [point.x for here in found.values() for point in here]
    if across:
        span = max(across) - min(across) or max(across)
        # The dearest points lie in a heap: room for the stack of their names beside it.
        axes[0].set_xlim(min(across) - 0.3 * span, max(across) + 0.4 * span)
        for panel in axes:
            draw_chance(panel, study)
    else:
        for panel in axes:
            say_empty(panel)
            panel.set_xticks([])
    settle(figure)
    axes[0].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())  # lines and labels must not move them
    for panel, tier in zip(axes, tiers, strict=True):
        front = front_of(study, tier)
        corners = _staircase(front, panel.get_xlim()[1])
        panel.plot([x for x, _ in corners], [y for _, y in corners], color=PALE, lw=2.5, zorder=1)
        labels = [
            Label(
                point.x,
                point.y,
                point.method,
                styles[point.method].ink,
                "bold" if point in front else "normal",
            )
            for point in found[tier]
        ]
        chance = [(x, 100 * study.chance) for x in panel.get_xlim()] if math.isfinite(study.chance) else []
        label_points(panel, labels, lines=_along(corners) + _along(chance))
    return figure


def _not_shown(study: Study) -> list[str]:
    """Return a note on finished cells that have an accuracy but no memory to show it against."""
    accuracy, needed = study.spreads(SCORE), study.spreads("dearest_trained_budget_bytes")
    pairs = [pair for pair in accuracy if accuracy[pair].known and not needed[pair].known]
    notes = []
    for reason, idle in (("no device could train", True), ("their memory is unknown", False)):
        found = {tier: [m for m, t in pairs if t == tier and study.idle(m, t) == idle] for tier in study.tiers}
        named = "; ".join(f"{', '.join(methods)} at {tier}" for tier, methods in found.items() if methods)
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


def _along(corners: Sequence[tuple[float, float]], steps: int = 40) -> list[tuple[float, float]]:
    """Return places along a line."""
    return [
        (x + (right - x) * step / steps, y + (top - y) * step / steps)
        for (x, y), (right, top) in pairwise(corners)
        for step in range(steps)
    ]


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
                    Entry("?" if study.seeds == 1 else "yes" if point in front else "no"),
                ],
            )
            for point in points(study, tier)
        ]
    columns = ["memory needed (MiB)", SCORE_NAME, "on the Pareto front"]
    return Grid("Test accuracy against memory needed", "tier, method", columns, groups)


FIGURE = ReportFigure(
    name="accuracy_memory_cost",
    title="Accuracy against memory needed",
    draw=draw,
    sentence=winners,
    grid=grid,
    shown=has_accuracy,
)
