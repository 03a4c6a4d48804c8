"""What each task holds at its peak, by category."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from profl.bench.memory.plot import CATEGORY_COLOURS
from profl.bench.memory.workload import CATEGORIES
from profl.bench.report.axis import AXES
from profl.bench.report.figure import ReportFigure
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.study import Study, bytes_of
from profl.bench.report.style import GREY, Legend, Sheet, mebibytes, page, say_empty
from profl.bench.results import peak_column

ROW = 0.195
"""Inches per line: a bar, the name of a method, or what is equal to the bar above."""

WORKSPACE = "workspace"
"""Hatched, at the end of every bar, where it can be taken off: it is the libraries' and much the same for all."""

HEADINGS = ("peak\n(bar)", "without\nworkspace", "least budget\n(tick)")
"""Of the numbers beside the bars, as `_numbers` has them."""

NUMBERS_WIDTH = 2.55
"""Inches that they take on a sheet of the usual width."""

NARROW_NUMBERS_WIDTH = 1.4
"""Without the second column."""

FINE = 500
"""Parts of the longest bar that an eye can tell apart."""

SHORT = 22
"""Characters of the names of a method's equal tasks up to which they stand beside the bar."""


class Line(NamedTuple):
    """A line of the figure: a method's name, a task with its bar, or, without a name, what the bar above stands for."""

    name: str
    entry: Mapping[Any, Any] = MappingProxyType({})
    said: str = ""


def draw(study: Study) -> Figure:
    """Draw what every task of every method holds at its peak, by category, and its least budget."""
    lines = _lines(study)
    bars = [(place, line.entry) for place, line in enumerate(lines) if line.entry]
    full = study.cells["full_model_least_budget_bytes"].max() / 2**20
    notes = [
        "Bar, and first number: requested bytes alive at the peak, from building the module to the last step. Hatched:"
        " workspace, which libraries take; the second number leaves it out. Tick, and last number: least budget, the"
        " smallest memory in which the steps run; it adds what the allocator rounds up and cannot reuse, and can lie"
        " below the peak, as cuDNN takes less workspace where memory is short."
    ]
    if len(bars) < sum(len(tasks) for _, tasks in study.tasks):
        notes.append("One bar where the numbers are the same and the parts look alike: = names the others.")
    if math.isfinite(full):
        notes.append(f"Dashed line: least budget of the full model, {mebibytes(full * 2**20)} MiB.")
    if any(math.isnan(number) for _, entry in bars for number in _numbers(entry)):
        notes.append("?: not measured.")
    title = "Peak memory of local training, by method and task"
    handles = [Patch(label=name, **_filling(name)) for name in CATEGORY_COLOURS]
    tick = Line2D([], [], color="black", ls="", marker="|", ms=11, mew=1.8, label="least budget")
    body = 0.85 + ROW * study.sheet.scale * max(len(lines), 4)
    figure = page(body, title, study.setting, notes, Legend([*handles, tick], 5), sheet=study.sheet)
    axes = figure.subplots()
    reach = [_draw_bar(axes, place, entry) for place, entry in bars]
    _write_numbers(axes, bars, study.sheet)
    furthest = max([*reach, full if math.isfinite(full) else 0.0], default=0.0)
    if not lines:
        say_empty(axes)
    axes.set_xlim(0, 1.02 * furthest or 1)
    axes.set_ylim(max(len(lines), 1) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), [line.name for line in lines])
    for place, (line, text) in enumerate(zip(lines, axes.get_yticklabels(), strict=True)):
        text.set_fontweight("bold" if line.name and not line.entry else "normal")
        if line.said:
            above_dashes = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            axes.text(0, place, line.said, va="center_baseline", color=GREY, bbox=above_dashes)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("memory at the peak (MiB)")
    if math.isfinite(full):
        axes.axvline(full, color=GREY, ls="--", lw=1, zorder=0.9)
    return figure


def _lines(study: Study) -> list[Line]:
    """Return the lines from top to bottom; tasks that would be drawn alike share the first one's.

    A method has no line of its own if all its tasks stand in lines of others.
    """
    peaks = [_numbers(entry)[0] for _, tasks in study.tasks for _, entry in tasks]
    finest = max((peak for peak in peaks if peak > 0), default=FINE) / FINE
    alike: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    own: dict[str, list[tuple[dict[Any, Any], list[tuple[str, str]]]]] = {}
    for method, tasks in study.tasks:
        for task, entry in tasks:
            parts = [f"{bytes_of(entry, peak_column(category)) / finest:.0f}" for category in CATEGORIES]
            sizes = (*map(mebibytes, _numbers(entry)), *parts)
            if sizes not in alike:
                own.setdefault(method, []).append((entry, alike.setdefault(sizes, [])))
            alike[sizes].append((method, task))
    longest = max((len(task) for _, tasks in study.tasks for task, _ in tasks), default=0)
    sheet = study.sheet
    beside = (NARROW_NUMBERS_WIDTH if sheet.narrow else NUMBERS_WIDTH) * sheet.scale
    characters = int((sheet.width_inches - beside) / sheet.character_inches) - max(longest, SHORT)
    lines = []
    for method, bars in own.items():
        lines.append(Line(study.called(method)))
        for entry, named in bars:
            name = ", ".join(task for other, task in named if other == method)
            others = [f"{study.called(other)} {task}" for other, task in named if other != method]
            if len(name) > SHORT:
                name, *more = [task for other, task in named if other == method]
                others = more + others
            lines.append(Line(name, entry))
            space = " " if sheet.narrow else "\N{NO-BREAK SPACE}"  # folded between names, where one fits in a line
            whole = ", ".join(other.replace(" ", space) for other in others)
            equal = textwrap.wrap(f"= {whole}", max(20, characters)) if others else []
            lines += [Line("", said=text) for text in equal]
    return lines


def _numbers(entry: Mapping[Any, Any]) -> list[float]:
    """Return the bytes that are written beside a bar; NaN if unknown."""
    peak = bytes_of(entry, "peak_requested_bytes")
    return [peak, peak - bytes_of(entry, peak_column(WORKSPACE)), bytes_of(entry, "least_budget_bytes")]


def _filling(category: str) -> dict[str, Any]:
    """Return how matplotlib is to fill a category's part of a bar."""
    colour = CATEGORY_COLOURS[category]
    if category == WORKSPACE:
        return {"facecolor": "white", "edgecolor": colour, "hatch": "/////", "linewidth": 0.5}
    return {"facecolor": colour, "edgecolor": "white", "linewidth": 0.3}


def _draw_bar(axes: Axes, place: int, entry: Mapping[Any, Any]) -> float:
    """Draw one task and return how far it reaches, in MiB."""
    left = 0.0
    for name in sorted(CATEGORY_COLOURS, key=lambda name: name == WORKSPACE):
        size = bytes_of(entry, peak_column(name)) / 2**20
        if size > 0:
            axes.barh(place, size, left=left, height=0.74, **_filling(name))
            left += size
    least = bytes_of(entry, "least_budget_bytes") / 2**20
    if math.isfinite(least):
        ends = [place - 0.4, place + 0.4]
        axes.plot([least, least], ends, color="black", lw=1.8, solid_capstyle="butt")
        left = max(left, least)
    return left


def _write_numbers(axes: Axes, bars: Sequence[tuple[int, Mapping[Any, Any]]], sheet: Sheet) -> None:
    """Write what is drawn as columns beside the bars: in the plot, numbers of bars and ticks look alike.

    A narrow sheet has room for those of the whole bar and the tick.
    """
    places = {0: 28, 2: 96} if sheet.narrow else {0: 40, 1: 105, 2: 180}
    at: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False, "ha": "right"}
    across = ("axes fraction", "data")
    for column, usual_points in places.items():
        points, heading = usual_points * sheet.scale, HEADINGS[column]
        if bars:
            axes.annotate(
                heading, (1, 1), (points, 2), "axes fraction", va="bottom", color="#444444", linespacing=1.1, **at
            )
        for place, entry in bars:
            text = mebibytes(_numbers(entry)[column])
            axes.annotate(text, (1, place), (points, 0), across, va="center_baseline", **at)


def sentence(study: Study) -> str:
    """Say which tasks need least and most."""
    prints = study.footprints.reindex(columns=["method", "task", "peak_requested_bytes"])
    peaks = prints.dropna().sort_values("peak_requested_bytes")
    if peaks.empty:
        return "Nothing measured yet."
    low, high = peaks.iloc[0], peaks.iloc[-1]
    return (
        f"From {mebibytes(low['peak_requested_bytes'])} MiB ({study.called(low['method'])}, {low['task']})"
        f" to {mebibytes(high['peak_requested_bytes'])} MiB ({study.called(high['method'])}, {high['task']})."
    )


def grid(study: Study) -> Grid:
    """Return what every task holds at its peak by category, in MiB."""
    columns = [*map(peak_column, CATEGORIES), "peak_requested_bytes", "least_budget_bytes"]

    def row(task: str, entry: Mapping[Any, Any]) -> GridRow:
        sizes = [Entry(mebibytes(bytes_of(entry, column))) for column in columns]
        operations = entry.get("operations_per_step")
        return GridRow(task, [*sizes, Entry(AXES["operations"].told(math.nan if operations is None else operations))])

    groups = {study.called(method): [row(*task) for task in tasks] for method, tasks in study.tasks}
    names = [*CATEGORIES, "peak requested", "least budget", "operations of a step"]
    return Grid("Memory at the peak, in MiB, and operations of a step", "method, task", names, groups)


FIGURE = ReportFigure(
    name="peak_memory",
    title="Peak memory by task",
    draw=draw,
    sentence=sentence,
    grid=grid,
)
