"""When a step has converged by its own rule: effective movement, its slope, and where the rule would freeze."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from profl.bench.report.figure import ReportFigure
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.rounds import legend_columns
from profl.bench.report.study import Study
from profl.bench.report.style import GREY, Legend, page, say_empty

DIAGNOSTICS = {"effective_movement": "effective movement", "movement_slope": "slope"}
"""What is drawn of a method's diagnostics, and what it is called."""

LINE: Any = {"lw": 0.9, "alpha": 0.75}
"""How lines are drawn of which several, one of every seed, cross each other."""

VERDICT = "would_freeze"
"""The diagnostic that is above zero where the rule would end the step."""


class Piece(NamedTuple):
    """One step of one seed: its phase, and by round the `DIAGNOSTICS` and the `VERDICT`, NaN where unknown."""

    phase: str
    rounds: pd.DataFrame

    @property
    def frozen_after(self) -> float:
        """The number of rounds of the step after which the rule would freeze for the first time; NaN if never."""
        verdicts = (self.rounds[VERDICT] > 0).to_list()
        return verdicts.index(True) + 1 if True in verdicts else math.nan


def pieces(study: Study, method: str, tier: str) -> Iterator[Piece]:
    """Yield the steps of every seed in turn of which a diagnostic is known."""
    for cell in study.cells_of(method, tier)["cell"]:
        rounds = study.rounds.loc[study.rounds["cell"] == cell]
        found = pd.DataFrame(list(rounds["diagnostics"]), index=rounds.index).reindex(columns=[*DIAGNOSTICS, VERDICT])
        found = found.astype(float).set_index(rounds["round"])
        for phase, rows in groupby(zip(found.index, rounds["phase"], strict=True), key=lambda row: row[1]):
            step = found.loc[[number for number, _ in rows]]
            if step.notna().any(axis=None):
                yield Piece(str(phase), step)


def draw(study: Study) -> Figure:
    """Draw movement and slope over the rounds: a row of panels per tier, a line per method, seed and step."""
    found = {
        (method, tier): steps
        for method in study.methods
        for tier in study.tiers
        if (steps := list(pieces(study, method, tier)))
    }
    shown_in = [tier for tier in study.tiers if any(shown == tier for _, shown in found)]
    heaps = _alike(shown_in, found)
    tiers = [heap[0] for heap in heaps]
    each = "a line per seed and step" if study.seeds > 1 else "a line per step"
    notes = [
        "Effective movement: how far parameters got in the latest rounds, as a share of how far they travelled. Slope:"
        f" its change over the rule's window; {each}, from the round on in which the rule can speak.",
        "Triangle: the round after which the freezing rule would end the step, whether or not it may.",
        *["One row for several tiers: all their steps are the same."] * (len(heaps) < len(shown_in)),
        *study.gaps,
    ]
    sheet = study.sheet
    columns = 1 if sheet.narrow else len(DIAGNOSTICS)
    rows = len(tiers) * len(DIAGNOSTICS) // columns
    height = 0.2 + (1.3 if sheet.narrow else 1.7) * rows
    title = "Effective movement and its slope over the rounds"
    moving = [method for method in study.methods if any(shown == method for shown, _ in found)]
    handles = [Line2D([], [], color=study.looks[name].colour, **LINE, label=study.label(name)) for name in moving]
    freezing: dict[str, Any] = {"ls": "", "marker": "v", "ms": 7 * sheet.scale**2, "mec": "white", "mew": 0.6}
    handles.append(Line2D([], [], color=GREY, **freezing, label="would freeze"))
    legend = Legend(handles, legend_columns(study))
    figure = page(height, title, study.training_setting, notes, legend, ("round", ""), sheet)
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).reshape(len(tiers), len(DIAGNOSTICS))
    for of_diagnostic in axes.T:
        for panel in of_diagnostic[1:]:
            panel.sharey(of_diagnostic[0])
    for row, tier, heap in zip(axes, tiers, heaps, strict=True):
        for panel, (name, called) in zip(row, DIAGNOSTICS.items(), strict=True):
            if panel is row[0] or not sheet.narrow:
                panel.set_title(_heading(study, heap))
            panel.set_ylabel(called)
            own = [(method, step) for method in study.methods for step in found.get((method, tier), ())]
            for method, step in own:
                colour, values = study.looks[method].colour, step.rounds[name]
                panel.plot(values, color=colour, **LINE)
                if math.isfinite(step.frozen_after):
                    end = values.iloc[[int(step.frozen_after) - 1]]
                    panel.plot(end, color=colour, **freezing)
            if not any(step.rounds[name].notna().any() for _, step in own):
                say_empty(panel, "no step of as many rounds as the rule takes")
    for panel in axes[:, 1]:
        panel.axhline(0, color=GREY, lw=0.8, zorder=0.9)
    axes[0, 0].set_xlim(0, 1.02 * max(1, study.cells["rounds"].max()))
    return figure


def _heading(study: Study, heap: Sequence[str]) -> str:
    """Return which tiers a row is of, with their memory if it is one."""
    return ", ".join(heap) if len(heap) > 1 else f"{study.tier_label(heap[0], between=' · ')} per device"


def _alike(tiers: Sequence[str], found: Mapping[tuple[str, str], list[Piece]]) -> list[list[str]]:
    """Group tiers in which every method took the same steps in every seed, as it does where memory binds nobody."""
    heaps: list[list[str]] = []
    methods = {method for method, _ in found}
    for tier in tiers:
        for heap in heaps:
            if all(_same(found.get((method, tier), []), found.get((method, heap[0]), [])) for method in methods):
                heap.append(tier)
                break
        else:
            heaps.append([tier])
    return heaps


def _same(steps: Sequence[Piece], others: Sequence[Piece]) -> bool:
    return len(steps) == len(others) and all(
        one.phase == other.phase and one.rounds.equals(other.rounds) for one, other in zip(steps, others, strict=True)
    )


def sentence(study: Study) -> str:
    """Say in how many steps of how many the rule would freeze, and which do not count."""
    named, apart = [], []
    for method in study.methods:
        steps = [step for tier in study.tiers for step in pieces(study, method, tier)]
        if steps:
            frozen = sum(math.isfinite(step.frozen_after) for step in steps)
            named.append(f"{study.called(method)} in {frozen} of {len(steps)}")
            apart += _unruled(study, method)
    of_all = "over all tiers and seeds" if study.seeds > 1 else "over all tiers"
    told = f"Steps that the freezing rule would end by itself: {', '.join(named)} ({of_all})."
    return f"{told} Not counted, as no movement is known of them: {', '.join(apart)}." if apart else told


def _unruled(study: Study, method: str) -> list[str]:
    """Return how many steps of a method have no known diagnostic, and which: ``27 of profl (map 2/4)``."""
    taken: list[tuple[str, str]] = []
    for tier in study.tiers:
        for cell in study.cells_of(method, tier)["cell"]:
            phases = study.rounds.loc[study.rounds["cell"] == cell, "phase"]
            taken += [(tier, str(phase)) for phase, _ in groupby(phases)]
    for tier in study.tiers:
        for step in pieces(study, method, tier):
            taken.remove((tier, step.phase))
    phases = ", ".join(dict.fromkeys(phase for _, phase in taken))
    return [f"{len(taken)} of {study.called(method)} ({phases})"] if taken else []


def grid(study: Study) -> Grid:
    """Return after how many of its rounds the rule would end every step, seed by seed."""
    groups = {}
    for method in study.methods:
        found = {tier: list(pieces(study, method, tier)) for tier in study.tiers}
        phases = list(dict.fromkeys(step.phase for steps in found.values() for step in steps))
        if phases:
            groups[study.label(method)] = [
                GridRow(phase, [_entry([step for step in found[tier] if step.phase == phase]) for tier in study.tiers])
                for phase in phases
            ]
    note = "Rounds of the step, seed by seed; never: the rule did not hold in any of its rounds."
    caption = "After how many rounds the rule would freeze, of how many the step took"
    return Grid(caption, "method, step", study.tier_labels, groups, note, unknown="no such step")


def _entry(steps: list[Piece]) -> Entry:
    texts = [
        f"{step.frozen_after:.0f} of {len(step.rounds)}"
        if math.isfinite(step.frozen_after)
        else f"never in {len(step.rounds)}"
        for step in steps
    ]
    first, *more = texts or ["?"]
    return Entry(first, tuple(more))


def _shown(study: Study) -> bool:
    if study.memory_only:  # weights do not move where nothing is computed
        return False
    return any(True for method in study.methods for tier in study.tiers for _ in pieces(study, method, tier))


FIGURE = ReportFigure(
    name="effective_movement",
    title="Effective movement",
    draw=draw,
    sentence=sentence,
    grid=grid,
    shown=_shown,
)
