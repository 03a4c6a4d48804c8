"""The figures of the table of methods: what is saved, for which operations, and who takes part."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from profl.bench.method import KINDS
from profl.bench.report.labels import Label, label_points
from profl.bench.report.looks import NAMESAKE
from profl.bench.report.style import (
    GREY,
    PALE,
    Legend,
    house_style,
    page,
    panels,
    save,
    settle,
)
from profl.bench.survey.summary import Setting, kind_of, settings
from profl.bench.technique import NONE

PUBLISHED_REDUCTION = 0.574
"""By how much ProFL lowers the peak at most, says its paper; of which model is not known."""

REFERENCE = KINDS[0]
KIND_COLOURS = dict(zip(KINDS, (GREY, "#E69F00", "#0072B2", "#D55E00", "#56B4E9", "#009E73"), strict=True))
_ALIKE = 0.005
"""As a share of plain full training: so near, a task is called the same."""
_ROW = 0.155
"""Inches."""
_PANELS_ACROSS = 3


def draw(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the figures of every GPU, at the smallest batch size of the table; return the paths of the PNG files.

    Parameters
    ----------
    table
        Of methods, as read.
    folder
        Where they go; a figure that there is nothing for is left out.
    """
    found = list(settings(table))
    written = []
    with house_style():
        for setting in found:
            if setting.batch_size != min(other.batch_size for other in found if other.gpu == setting.gpu):
                continue
            drawn = {"reduction": reduction(setting)}
            if not setting.techniques:
                drawn |= {f"operations-{model}": operations(setting, model) for model in setting.models}
            if setting.rows["eligible_devices"].notna().any():
                drawn["participation"] = participation(setting)
            for name, figure in drawn.items():
                # What stands in a table need not be a name of this package's.
                written += save(figure, folder, re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{name}-{setting.name}"))
    return [path for path in written if path.suffix == ".png"]


def reduction(setting: Setting) -> Figure:
    """Draw by how much every method lowers the peak, dearest and cheapest task, a panel per model."""
    notes = [
        "Peak requested bytes against plain training of the full model in batches of the same size. Dashed: the"
        f" {100 * PUBLISHED_REDUCTION:.1f} % that ProFL's paper says it saves at most. Left of 0: more is needed."
        " Blank: refused by the method or the technique, or not measured."
    ]
    figure = _spans(
        setting, "peak_requested_reduction", "How much memory a local step saves", "saved at the peak (%)", notes
    )
    for axes in figure.axes:
        axes.axvline(100 * PUBLISHED_REDUCTION, color=GREY, ls="--", lw=1, zorder=0.9)
        axes.axvline(0, color=GREY, lw=1, zorder=0.9)
    return figure


def participation(setting: Setting) -> Figure:
    """Draw how many devices of the published fleet hold the dearest and the cheapest task of every method."""
    notes = [
        "Of 100 devices with 100 to 900 MB each (seed 42, as in ProFL's published code), those whose memory holds the"
        " least budget. Where tasks are alternatives, who holds the cheapest takes part. Where they come one after"
        " another (progressive), fewest take part in the dearest. fedavg stands for plain training of the full model,"
        " as exclusive has it. Blank: refused by the method or the technique, or not measured."
    ]
    return _spans(setting, "eligible_devices", "Who can take part", "devices of 100", notes, factor=1)


def _spans(setting: Setting, column: str, title: str, axis: str, notes: Sequence[str], factor: float = 100) -> Figure:
    """Draw a line from the cheapest to the dearest task for every contender, a panel per model."""
    rows, down = setting.contenders, math.ceil(len(setting.models) / _PANELS_ACROSS)
    height = down * (0.35 + _ROW * max(len(rows), 4)) + 0.2
    whose = "methods with techniques" if setting.techniques else "every method"
    where = f"{setting.gpu}, batch {setting.batch_size}; {whose}: dearest and cheapest task"
    ends = [
        Line2D([], [], color="black", ls="", marker="o", ms=5, mfc=face, label=f"{name} task")
        for name, face in (("dearest", "black"), ("cheapest", "white"))
    ]
    legend = Legend([*_kind_handles(setting), *ends], 4)
    figure = page(height, title, where, notes, legend, axis_names=(axis, ""))
    axes_of = panels(figure, len(setting.models), _PANELS_ACROSS)
    for axes, model in zip(axes_of, setting.models, strict=True):
        axes.tick_params(axis="y", length=0)
        width = setting.rows[setting.rows["model"] == model]["width"].iloc[0]
        axes.set_title(f"{model}, width {width}")
        for place, contender in enumerate(rows):
            span = setting.span(contender, model, column)
            if span is None or math.isnan(span.dearest):
                continue
            colour = _colour(contender)
            axes.plot([factor * value for value in span], [place, place], color=colour, lw=1.2, alpha=0.6)
            axes.plot(factor * span.cheapest, place, "o", ms=4.5, mfc="white", mec=colour, mew=1)
            axes.plot(factor * span.dearest, place, "o", ms=4.5, mfc=colour, mec=colour, mew=1)
    for axes in axes_of[::_PANELS_ACROSS]:  # the others share their rows
        _name_rows(axes, rows)
    return figure


def _name_rows(axes: Axes, rows: Sequence[str]) -> None:
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(axis="y", labelsize=8)
    for name, text in zip(rows, axes.get_yticklabels(), strict=True):
        text.set_color(_colour(name))
        text.set_fontweight("bold" if name == NAMESAKE else "normal")


def operations(setting: Setting, model: str) -> Figure:
    """Draw the peak of every task against the operations of its step, and name those that need least."""
    rows = setting.rows[setting.rows["model"] == model]
    points, named = _points(rows), {}
    full = next((point.name for point in points if point.kind == REFERENCE and not point.technique), None)
    front = _front(points)
    plain = rows["peak_requested_reduction"].abs().lt(_ALIKE) & (rows["operations_share"] - 1).abs().lt(_ALIKE)
    for at, point in zip(rows.index, points, strict=True):
        dearest = at == setting.tasks(point.name, model).index[0]
        if point.technique or (dearest and not plain[at]):
            named[point] = point.name.rpartition(" with ")[2]
        elif point.name == full:
            named[point] = "plain training"
    for point in {point.name: point for point in reversed(front)}.values():
        alike = sorted({other.name for other in points if (other.x, other.y) == (point.x, point.y)})
        named.setdefault(point, ", ".join(alike))
    notes = [
        "Operations: of a step on a full batch; 100 % are those of plain training of the full model. Bold, on the grey"
        " line: what needs least of all tasks that do as much of plain training as it does, or more; operations beyond"
        " 100 % are work done twice and do not count, and what has no backward pass is left out. Each method is named"
        " once there. Named besides: the reference's techniques (diamonds), and the dearest task of methods whose"
        " dearest is not plain full training. Not shown: other methods with techniques, and how much a step teaches."
    ]
    where = f"width {rows['width'].iloc[0]}, {setting.gpu}, batch {setting.batch_size}: every method's tasks"
    title, legend = f"Memory against operations of a local step, {model}", Legend(_kind_handles(setting), 8)
    figure = page(4.8, title, where, notes, legend)
    axes = figure.subplots()
    axes.set(xlabel="operations (% of plain full training)", ylabel="peak requested (MiB)")
    # Of dots that cover each other the one that is named lies on top, above all the reference's.
    for point in sorted(points, key=lambda point: (point in named, point in front, point.kind == REFERENCE)):
        axes.plot(point.x, point.y, ls="", marker="D" if point.technique else "o", ms=5, mfc=point.colour, mec="white")
    axes.margins(x=0.08, y=0.08)
    settle(figure)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    corners = [corner for one, other in pairwise(front) for corner in ((one.x, one.y), (other.x, one.y))]
    corners += [(point.x, point.y) for point in front[-1:]]
    axes.plot([x for x, _ in corners], [y for _, y in corners], color=PALE, lw=2.5, zorder=1)
    labels = [
        Label(point.x, point.y, text, point.colour, "bold" if point in front else "normal")
        for point, text in named.items()
    ]
    label_points(axes, labels, lines=[(point.x, point.y) for point in points])
    return figure


class _Point(NamedTuple):
    """A task: operations in percent and MiB at the peak."""

    name: str
    task: str
    technique: bool
    x: float
    y: float

    @property
    def kind(self) -> str:
        return _kind(self.name)

    @property
    def colour(self) -> str:
        return _colour(self.name)


def _points(rows: pd.DataFrame) -> list[_Point]:
    return [
        _Point(contender, task, technique != NONE, 100 * share, peak_bytes / 2**20)
        for contender, task, technique, share, peak_bytes in zip(
            *(rows[name] for name in ("contender", "task", "technique", "operations_share", "peak_requested_bytes")),
            strict=True,
        )
    ]


def _front(points: Sequence[_Point]) -> list[_Point]:
    """Return those for which none other needs less memory with at least as many operations, most operations first.

    What is computed beyond plain full training is computed twice, and counts for nothing. Without what has no backward
    pass: it needs least of all and learns least, and would leave the others in its shadow.
    """
    front: list[_Point] = []
    for point in sorted(points, key=lambda point: (-min(point.x, 100), point.y, point.name)):
        if point.kind != "forward only" and (not front or point.y < front[-1].y):
            front.append(point)
    return front


def _kind(contender: str) -> str:
    return kind_of(contender.split(" ")[0])


def _colour(contender: str) -> str:
    return KIND_COLOURS.get(_kind(contender), PALE)


def _kind_handles(setting: Setting) -> list[Line2D]:
    shown = {kind_of(name) for name in setting.rows["method"].unique()}
    return [
        Line2D([], [], color=colour, ls="", marker="o", ms=5, label=kind)
        for kind, colour in KIND_COLOURS.items()
        if kind in shown
    ]
