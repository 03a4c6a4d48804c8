"""Figures of test accuracy: by tier, by memory, by round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.report.labels import Label, label_ends, label_points
from bench.report.study import Study
from bench.report.style import IDEAL, PALE, Look, legend_above, looks, page, panels, say_empty, settle

DODGE = 0.035
"""Methods stand side by side by a hair, as equal results must not hide each other."""


def accuracy_by_tier(study: Study) -> Figure:
    """Draw final accuracy against tier, a line per method."""
    accuracy = study.figures("final_accuracy")
    tiers, styles = study.tiers, looks(study.methods)
    notes = study.notes
    if any(study.idle(*pair) for pair in accuracy):
        notes.insert(0, "Hollow: no device could train; the accuracy is that of the untrained model.")
    title = "Final test accuracy by memory tier"
    figure = page(4.1, title, study.training_setting, notes)
    axes = figure.subplots()
    ends = []
    for place, (method, look) in enumerate(styles.items()):
        across = [position + DODGE * (place - (len(styles) - 1) / 2) for position in range(len(tiers))]
        spreads = [accuracy[method, tier].times(100) for tier in tiers]
        axes.plot(across, [spread.mean for spread in spreads], color=look.colour, ls=look.dashes, lw=1.6)
        for x, tier, spread in zip(across, tiers, spreads, strict=True):
            axes.vlines(x, spread.low, spread.high, color=look.colour, lw=1.2)
            axes.plot(x, spread.mean, ls="", **_marker(look, hollow=study.idle(method, tier)))
        known = [(x, spread.mean) for x, spread in zip(across, spreads, strict=True) if spread.known]
        if known:
            ends.append(Label(*known[-1], _name(method), look.ink, "bold" if method == "profl" else "normal"))
    last = len(tiers) - 1
    column = last + DODGE * len(styles) / 2 + 0.03 * len(tiers)
    axes.set_xticks(range(len(tiers)), [study.tier_label(tier) for tier in tiers])
    axes.set_xlim(-0.3, column + 0.19 * len(tiers))  # with room for the labels
    axes.set_xlabel("memory tier, with the mean memory of its devices")
    axes.set_ylabel("final test accuracy (%)")
    axes.grid(axis="x", visible=False)
    axes.spines["bottom"].set_bounds(-0.3, last + 0.3)
    if not ends:
        say_empty(axes)
    settle(figure)
    label_ends(axes, ends[::-1], column)  # of equal ends, the first in display order comes out on top
    return figure


def _name(method: str) -> str:
    return f"{method} (ideal)" if method == IDEAL else method


def _marker(look: Look, hollow: bool = False) -> dict[str, Any]:
    face, edge = ("white", look.colour) if hollow else (look.colour, "white")
    return {"marker": look.marker, "ms": look.size, "mfc": face, "mec": edge, "mew": 0.8}


NAME_WIDTH = 0.15
"""Share of a panel's width that the name of a stage takes."""


class Point(NamedTuple):
    """A method's result in a tier: memory needed (MiB) and final accuracy (%)."""

    method: str
    x: float
    y: float


def accuracy_by_budget(study: Study) -> Figure:
    """Draw final accuracy against the memory needed: a panel per tier, with its Pareto front."""
    accuracy, needed = study.figures("final_accuracy"), study.figures("dearest_trained_budget_bytes")
    tiers, styles = study.tiers, looks(study.methods)
    notes = [
        "Memory is the least budget of the dearest task that any device trained. Bold, on the grey line: the"
        " Pareto front, where no other method of the tier is as accurate with less memory or more accurate"
        f" with as much ({IDEAL} aside). Names in a stack: points in a heap, the most accurate first.",
        *study.notes,
        *_not_shown(study),
    ]
    title = "Final test accuracy against memory needed"
    names = ("least budget of the dearest trained task (MiB)", "final test accuracy (%)")
    height = 0.2 + 2.25 * math.ceil(len(tiers) / 2)
    figure = page(height, title, study.training_setting, notes, axis_names=names)
    axes = panels(figure, len(tiers))
    contents: list[tuple[Axes, list[Point]]] = []
    for panel, tier in zip(axes, tiers, strict=True):
        panel.set_title(study.tier_label(tier, between=" · ") + " per device")
        panel.margins(x=0.12, y=0.16)
        points = []
        for method, look in styles.items():
            spread, x = accuracy[method, tier].times(100), needed[method, tier].mean / 2**20
            if spread.known and math.isfinite(x):
                points.append(Point(method, x, spread.mean))
                panel.vlines(x, spread.low, spread.high, color=look.colour, lw=1.2)
                panel.plot(x, spread.mean, ls="", **_marker(look))
        contents.append((panel, points))
    if not any(points for _, points in contents):
        for panel in axes:
            say_empty(panel)
            panel.set_xticks([])
    settle(figure)
    axes[0].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())  # lines and labels must not move them
    for panel, points in contents:
        front = pareto_front([point for point in points if point.method != IDEAL])
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
            for point in points
        ]
        label_points(panel, labels, lines=_along(corners))
    return figure


def _not_shown(study: Study) -> list[str]:
    """Return a note on finished cells that have an accuracy but no memory to show it against."""
    accuracy, needed = study.figures("final_accuracy"), study.figures("dearest_trained_budget_bytes")
    pairs = [pair for pair in accuracy if accuracy[pair].known and not needed[pair].known]
    notes = []
    for reason, idle in (("no device could train", True), ("their memory is unknown", False)):
        found = {tier: [m for m, t in pairs if t == tier and study.idle(m, t) == idle] for tier in study.tiers}
        named = "; ".join(f"{', '.join(methods)} at {tier}" for tier, methods in found.items() if methods)
        if named:
            notes.append(f"Not shown, as {reason}: {named}.")
    return notes


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return, by x, the points that none beats in ``x`` (less) or ``y`` (more) without loss in the other."""

    def beats(other: Point, point: Point) -> bool:
        return other.x <= point.x and other.y >= point.y and (other.x, other.y) != (point.x, point.y)

    front = [point for point in points if not any(beats(other, point) for other in points)]
    return sorted(front, key=lambda point: (point.x, point.y))


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


def learning_curves(study: Study) -> Figure:
    """Draw test accuracy over the rounds: a panel per tier, a line per method, schedules as thin lines."""
    tiers, styles = study.tiers, looks(study.methods)
    steps = {(method, tier): schedule(study, method, tier) for method in styles for tier in tiers}
    stepping = ", ".join(method for method in styles if any(steps[method, tier] for tier in tiers))
    notes = study.notes
    if stepping:
        seed = " (its first seed)" if study.seeds > 1 else ""
        notes.insert(
            0, f"Thin vertical lines: {stepping} moves to its next step{seed}; stages are named if there is room."
        )
    title, names = "Test accuracy over the rounds", ("round", "test accuracy (%)")
    height, legend = 0.2 + 2.1 * math.ceil(len(tiers) / 2), 0.05 + 0.2 * math.ceil(len(styles) / 7)
    figure = page(height, title, study.training_setting, notes, legend, names)
    axes = panels(figure, len(tiers))
    for panel, tier in zip(axes, tiers, strict=True):
        panel.set_title(study.tier_label(tier, between=" · ") + " per device")
        for place, (method, look) in enumerate(styles.items()):
            curve = 100 * _curve(study, method, tier)
            apart = (0.02 + 0.02 * place, 0.16)  # the methods' markers at different rounds
            line: dict[str, Any] = {"color": look.colour, "ls": look.dashes, "lw": 1.3}
            panel.plot(curve.index, curve["mean"], markevery=apart, **line, **_small_marker(look))
            if study.seeds > 1:
                panel.fill_between(curve.index, curve["low"], curve["high"], color=look.colour, alpha=0.15, lw=0)
    if study.rounds["test_accuracy"].isna().all():
        for panel in axes:
            say_empty(panel)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low - 0.1 * (high - low), high)  # a strip for the names of the stages
    axes[0].set_xlim(0, 1.02 * max(1, study.cells["rounds"].max()))
    axes[0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    for panel, tier in zip(axes, tiers, strict=True):
        for method, look in styles.items():
            _draw_schedule(panel, steps[method, tier], look)
    handles = [
        Line2D([], [], color=look.colour, ls=look.dashes, lw=1.6, label=_name(method), **_small_marker(look))
        for method, look in styles.items()
    ]
    legend_above(figure, handles, columns=7)
    return figure


def _small_marker(look: Look) -> dict[str, Any]:
    return {"marker": look.marker, "ms": look.size - 1, "mec": "white", "mew": 0.5}


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


def _draw_schedule(panel: Axes, steps: Sequence[tuple[int, str]], look: Look) -> None:
    """Draw a line before each step but the first; ``grow`` of ``grow 2/4`` is the stage."""
    stage, seen, free = "", set(), -math.inf
    for number, phase in steps:
        fresh, stage = phase.split()[0] != stage, phase.split()[0]
        if number > 1:
            width, alpha = (1.1, 0.75) if fresh else (0.6, 0.5)
            panel.axvline(number - 0.5, color=look.colour, lw=width, alpha=alpha)
        # Named where it first begins or not at all: beside a later step the name would mislead.
        if stage not in seen and number >= free:
            foot: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            panel.annotate(stage, (number - 0.5, 0), xytext=(3, 3), color=look.ink, **foot)
            free = number + NAME_WIDTH * panel.get_xlim()[1]
        seen.add(stage)
