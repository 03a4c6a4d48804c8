"""The steps of a method's schedule: where they lie on the axis, and strips at the foot of a panel that show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from profl.bench.report.looks import Look
from profl.bench.report.study import Study

STRIP = 0.15
"""Height of a schedule's strip with its names, as a share of the height of the curves above."""

NAME_WIDTH = 0.6
"""Inches that the name of a stage takes."""


class Step(NamedTuple):
    """A run of rounds in one phase: its first round, and where it begins and ends on the study's axis."""

    round: int
    phase: str
    begin: float
    end: float


def schedule(study: Study, method: str, tier: str) -> list[Step]:
    """Return the steps of the first seed; empty if it has only one phase, or nothing was spent, or that is unknown."""
    cell = study.cells_of(method, tier)["cell"].iloc[:1]
    rounds = study.rounds.loc[study.rounds["cell"].isin(cell)]
    ends = np.array([0.0, *study.progress.loc[rounds.index]])
    if not ends[-1] > 0:
        return []
    # Rounds meet half-way between their ends; the last reaches as far beyond its own.
    edges = ends + np.diff(ends, append=2 * ends[-1] - ends[-2]) / 2
    phases = rounds["phase"].astype(str).to_list()
    starts = [0, *(place for place, (one, other) in enumerate(pairwise(phases), start=1) if one != other)]
    numbers = rounds["round"].to_list()
    steps = [
        Step(numbers[start], phases[start], float(edges[start]), float(edges[stop]))
        for start, stop in pairwise([*starts, len(phases)])
    ]
    return steps if len(steps) > 1 else []


def strips_note(study: Study, stepping: Sequence[str]) -> list[str]:
    """Return the note on the strips of some methods; none without any."""
    seed = " (its first seed)" if study.seeds > 1 else ""
    text = (
        f"Strips at the foot: the steps of {study.listed(stepping)}{seed}, in turn dark and pale; a stage is named"
        " where it begins, if there is room."
    )
    return [text] if stepping else []


def stepping_methods(study: Study) -> dict[str, dict[str, list[Step]]]:
    """Return `schedule` by method and tier, of the methods that have steps in any tier."""
    found = {method: {tier: schedule(study, method, tier) for tier in study.tiers} for method in study.methods}
    return {method: steps for method, steps in found.items() if any(steps.values())}


def draw_schedules(
    panel: Axes, steps: Mapping[str, Sequence[Step]], looks: Mapping[str, Look], width: float = 4.0
) -> None:
    """Draw a strip per method, one above another, in the room of one `STRIP` for each at the foot of the panel.

    ``width`` is that of the panel, roughly, in inches.
    """
    for place, (method, taken) in enumerate(steps.items()):
        _draw_strip(panel, taken, looks[method], place * STRIP / (1 + STRIP * len(steps)), NAME_WIDTH / width)


def _draw_strip(panel: Axes, steps: Sequence[Step], look: Look, foot: float, name_width: float) -> None:
    """Draw steps as a strip ``foot`` (of the panel) above its lower edge; ``grow`` of ``grow 2/4`` is the stage."""
    floor, thickness = foot + 0.01, 0.03
    across = panel.get_xaxis_transform()
    seen, free = set(), -math.inf
    for place, step in enumerate(steps):
        bar: dict[str, Any] = {"align": "edge", "color": look.colour, "alpha": 0.4 if place % 2 else 0.9, "lw": 0}
        panel.barh(floor, step.end - step.begin, thickness, step.begin, transform=across, **bar)
        stage = step.phase.split()[0]
        # Named where it first begins or not at all: beside a later step the name would mislead.
        if stage not in seen and step.begin >= free:
            above: dict[str, Any] = {"xycoords": across, "textcoords": "offset points", "color": look.ink}
            panel.annotate(stage, (step.begin, floor + thickness), xytext=(0, 2), **above)
            free = step.begin + name_width * panel.get_xlim()[1]
        seen.add(stage)
