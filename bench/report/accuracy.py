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

from profl.bench.report.coincidence import coincident, line_width, striped
from profl.bench.report.labels import Label, label_ends, label_points
from profl.bench.report.study import Study
from profl.bench.report.style import GREY, IDEAL, PALE, Look, legend_above, looks, page, panels, say_empty, settle

DODGE = 0.035
"""Methods stand side by side by a hair, as equal results must not hide each other."""


KINDS_GAP = 0.35
"""What sets mixed fleets and uniform tiers apart, in places of a tier."""


def accuracy_by_tier(study: Study) -> Figure:
    """Draw final accuracy against tier: a line per method over the uniform tiers, mixed fleets beside it."""
    accuracy = study.figures("final_accuracy")
    tiers, styles = study.tiers, looks(study.methods)
    uniform = [tier for tier in tiers if tier not in study.mixed]
    gap = KINDS_GAP if 0 < len(uniform) < len(tiers) else 0.0
    places = {tier: place + gap * (tier in uniform) for place, tier in enumerate(tiers)}
    notes = [*_chance_note(study), *study.notes]
    if any(study.idle(*pair) for pair in accuracy):
        notes.insert(0, "Hollow: no device could train; the accuracy is that of the untrained model.")
    if gap:
        notes.insert(0, "A mixed fleet is another kind of tier: its devices differ in memory, so no line leads to it.")
    title = "Final test accuracy by memory tier"
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
            axes.plot(x, spread.mean, ls="", **_marker(look, hollow=study.idle(method, tier)))
        known = [(places[tier] + aside, spread.mean) for tier, spread in spreads.items() if spread.known]
        if known:
            ends.append(Label(*known[-1], _name(method), look.ink, "bold" if method == "profl" else "normal"))
    last = len(tiers) - 1 + gap
    column = last + DODGE * len(styles) / 2 + 0.03 * len(tiers)
    axes.set_xticks(list(places.values()), [study.tier_label(tier) for tier in tiers])
    axes.set_xlim(-0.3, column + 0.19 * len(tiers))  # with room for the labels
    axes.set_xlabel("memory tier, with the memory of its devices")
    axes.set_ylabel("final test accuracy (%)")
    axes.grid(axis="x", visible=False)
    axes.spines["bottom"].set_bounds(-0.3, last + 0.3)
    if gap:
        _head_kinds(axes, len(tiers) - len(uniform), last)
    if ends:
        _draw_chance(axes, study)
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


def _draw_chance(axes: Axes, study: Study) -> None:
    if math.isfinite(study.chance):
        axes.axhline(100 * study.chance, color=GREY, ls=":", lw=1.2, zorder=0.9)


def _chance_note(study: Study) -> list[str]:
    return [f"Dotted line: chance, {100 * study.chance:.1f} %."] if math.isfinite(study.chance) else []


def _name(method: str) -> str:
    return f"{method} (ideal)" if method == IDEAL else method


def _marker(look: Look, hollow: bool = False) -> dict[str, Any]:
    face, edge = ("white", look.colour) if hollow else (look.colour, "white")
    return {"marker": look.marker, "ms": look.size, "mfc": face, "mec": edge, "mew": 0.8}


class Point(NamedTuple):
    """A method's result in a tier: memory needed (MiB) and final accuracy (%)."""

    method: str
    x: float
    y: float


def points(study: Study, tier: str) -> list[Point]:
    """Return the results of a tier whose accuracy and memory are both known, in display order."""
    accuracy, needed = study.figures("final_accuracy"), study.figures("dearest_trained_budget_bytes")
    found = [
        Point(method, needed[method, tier].mean / 2**20, 100 * accuracy[method, tier].mean) for method in study.methods
    ]
    return [point for point in found if math.isfinite(point.x) and math.isfinite(point.y)]


def front_of(study: Study, tier: str) -> list[Point]:
    """Return the Pareto front of a tier, by memory: without the ideal and without what learned nothing."""
    hopeless = 100 * study.learned_accuracy  # NaN is below nothing
    rivals = [point for point in points(study, tier) if point.method != IDEAL and not point.y < hopeless]
    return pareto_front(rivals)


def accuracy_by_budget(study: Study) -> Figure:
    """Draw final accuracy against the memory needed: a panel per tier, with its Pareto front."""
    accuracy = study.figures("final_accuracy")
    tiers, styles = study.tiers, looks(study.methods)
    found = {tier: points(study, tier) for tier in tiers}
    notes = [
        "Memory is the least budget of the dearest task that any device trained. Bold, on the grey line: the"
        " Pareto front, where no other method of the tier is as accurate with less memory or more accurate"
        f" with as much ({IDEAL} aside). Names in a stack: points in a heap, the most accurate first.",
        *_chance_note(study),
        *study.notes,
        *_not_shown(study),
    ]
    if any(point.y < 100 * study.learned_accuracy for here in found.values() for point in here):
        notes.insert(1, f"Below {100 * study.learned_accuracy:.1f} % nothing was learned: never on the front.")
    title = "Final test accuracy against memory needed"
    names = ("least budget of the dearest trained task (MiB)", "final test accuracy (%)")
    height = 0.2 + 2.25 * math.ceil(len(tiers) / 2)
    figure = page(height, title, study.training_setting, notes, axis_names=names)
    axes = panels(figure, len(tiers))
    for panel, tier in zip(axes, tiers, strict=True):
        panel.set_title(study.tier_label(tier, between=" · ") + " per device")
        panel.margins(x=0.12, y=0.16)
        for method, x, y in found[tier]:
            spread, look = accuracy[method, tier].times(100), styles[method]
            panel.vlines(x, spread.low, spread.high, color=look.colour, lw=1.2)
            panel.plot(x, y, ls="", **_marker(look))
    across = [point.x for here in found.values() for point in here]
    if across:
        span = max(across) - min(across) or max(across)
        # The dearest points lie in a heap: room for the stack of their names beside it.
        axes[0].set_xlim(min(across) - 0.3 * span, max(across) + 0.4 * span)
        for panel in axes:
            _draw_chance(panel, study)
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
    """Draw test accuracy over the rounds: a panel per tier, a line per method, schedules as strips at the foot."""
    tiers, styles = study.tiers, looks(study.methods)
    curves = {(method, tier): 100 * _curve(study, method, tier) for method in styles for tier in tiers}
    steps = {(method, tier): schedule(study, method, tier) for method in styles for tier in tiers}
    stepping = [method for method in styles if any(steps[method, tier] for tier in tiers)]
    means = {tier: {method: curves[method, tier]["mean"] for method in styles} for tier in tiers}
    heaps = {tier: coincident(means[tier], COINCIDENT) for tier in tiers}
    notes = [*striped(heaps, f"{COINCIDENT:.0f} points"), *_chance_note(study), *study.notes]
    if stepping:
        seed = " (its first seed)" if study.seeds > 1 else ""
        notes.insert(
            0,
            f"Strips at the foot: the steps of {', '.join(stepping)}{seed}, in turn dark and pale; a stage is named"
            " where it begins, if there is room.",
        )
    title, names = "Test accuracy over the rounds", ("round", "test accuracy (%)")
    height, legend = 0.2 + 2.1 * math.ceil(len(tiers) / 2), 0.05 + 0.2 * math.ceil(len(styles) / 7)
    figure = page(height, title, study.training_setting, notes, legend, names)
    axes = panels(figure, len(tiers))
    for panel, tier in zip(axes, tiers, strict=True):
        panel.set_title(study.tier_label(tier, between=" · ") + " per device")
        for method, look in styles.items():
            curve = curves[method, tier]
            width = line_width(method, heaps[tier])
            every = math.ceil(len(curve) / MOST_MARKERS) or 1
            line: dict[str, Any] = {"color": look.colour, "ls": look.dashes, "lw": width}
            panel.plot(curve.index, curve["mean"], markevery=every, **line, **_small_marker(look))
            if study.seeds > 1:
                panel.fill_between(curve.index, curve["low"], curve["high"], color=look.colour, alpha=0.15, lw=0)
    if study.rounds["test_accuracy"].isna().all():
        for panel in axes:
            say_empty(panel)
    else:
        for panel in axes:
            _draw_chance(panel, study)
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
        Line2D([], [], color=look.colour, ls=look.dashes, lw=1.6, label=_name(method), **_small_marker(look))
        for method, look in styles.items()
    ]
    legend_above(figure, handles, columns=7)
    return figure


STRIP = 0.15
"""Height of a schedule's strip with its names, as a share of the height of the curves above."""

NAME_WIDTH = 0.15
"""Share of a panel's width that the name of a stage takes."""

COINCIDENT = 2.0
"""Points of accuracy: of curves that are nowhere farther apart, one would hide another."""

MOST_MARKERS = 12
"""On a curve."""


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
