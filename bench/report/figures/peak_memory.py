"""What each task holds at its peak, by category."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
"""Inches per bar."""

WORKSPACE = "workspace"
"""Drawn at the end of every bar, where it can be taken off: it is the libraries' and much the same for all."""

NUMBERS = {
    "peak_requested_bytes": "peak\n(bar)",
    peak_column(WORKSPACE): "of which\nworkspace",
    "least_budget_bytes": "least budget\n(tick)",
}
"""What is written beside the bars, and its heading."""


def draw(study: Study) -> Figure:
    """Draw what every task of every method holds at its peak, by category, and its least budget."""
    rows, equal = _rows(study)
    full = study.cells["full_model_least_budget_bytes"].max() / 2**20
    notes = [
        "Bar, and first number: requested bytes alive at the peak, from building the module to the last step. Tick,"
        " and last number: least budget, the smallest memory in which the steps run; it adds what the allocator rounds"
        " up and cannot reuse, and can lie below the peak, as cuDNN takes less workspace where memory is short."
    ]
    if equal:
        notes.append(f"* Drawn once, as equal to the byte: {'; '.join(' = '.join(names) for names in equal)}.")
    if math.isfinite(full):
        notes.append(f"Dashed line: least budget of the full model, {mebibytes(full * 2**20)} MiB.")
    if any(math.isnan(bytes_of(entry, column)) for _, entry in rows if entry for column in NUMBERS):
        notes.append("?: not measured.")
    title = "Peak memory of local training, by method and task"
    handles = [Patch(color=colour, label=name) for name, colour in CATEGORY_COLOURS.items()]
    tick = Line2D([], [], color="black", ls="", marker="|", ms=11, mew=1.8, label="least budget")
    body = 0.85 + ROW * study.sheet.scale * max(len(rows), 4)
    figure = page(body, title, study.setting, notes, Legend([*handles, tick], 5), sheet=study.sheet)
    axes = figure.subplots()
    reach = [_draw_bar(axes, place, entry) for place, (_, entry) in enumerate(rows) if entry]
    if rows:
        _write_numbers(axes, rows, study.sheet)
    furthest = max([*reach, full if math.isfinite(full) else 0.0], default=0.0)
    if not rows:
        say_empty(axes)
    axes.set_xlim(0, 1.02 * furthest or 1)
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    for (_, entry), text in zip(rows, axes.get_yticklabels(), strict=True):
        text.set_fontweight("normal" if entry else "bold")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("memory at the peak (MiB)")
    if math.isfinite(full):
        axes.axvline(full, color=GREY, ls="--", lw=1, zorder=0.9)
    return figure


def _rows(study: Study) -> tuple[list[tuple[str, dict[Any, Any]]], list[list[str]]]:
    """Return names and footprints from top to bottom, and which tasks share a row, as they need the same bytes.

    A method's heading has an empty footprint; a method has none if all its tasks stand in rows of others.
    """
    columns = [*map(peak_column, CATEGORIES), *NUMBERS]
    alike: dict[str, list[str]] = {}
    found = []
    for method, tasks in study.tasks:
        own = []
        for task, entry in tasks:
            sizes = str([bytes_of(entry, column) for column in columns])
            if sizes not in alike:
                own.append((task, entry, alike.setdefault(sizes, [])))
            alike[sizes].append(f"{study.called(method)} {task}")
        found.append((method, own))
    rows: list[tuple[str, dict[Any, Any]]] = []
    for method, own in found:
        rows += [(study.called(method), {})] * bool(own)
        rows += [(f"{task} *" if len(names) > 1 else task, entry) for task, entry, names in own]
    return rows, [names for names in alike.values() if len(names) > 1]


def _draw_bar(axes: Axes, place: int, entry: Mapping[Any, Any]) -> float:
    """Draw one task and return how far it reaches, in MiB."""
    left = 0.0
    for name in sorted(CATEGORY_COLOURS, key=lambda name: name == WORKSPACE):
        size, colour = bytes_of(entry, peak_column(name)) / 2**20, CATEGORY_COLOURS[name]
        if size > 0:
            axes.barh(place, size, left=left, color=colour, height=0.74, edgecolor="white", linewidth=0.3)
            left += size
    least = bytes_of(entry, "least_budget_bytes") / 2**20
    if math.isfinite(least):
        ends = [place - 0.4, place + 0.4]
        axes.plot([least, least], ends, color="black", lw=1.8, solid_capstyle="butt")
        left = max(left, least)
    return left


def _write_numbers(axes: Axes, rows: Sequence[tuple[str, Mapping[Any, Any]]], sheet: Sheet) -> None:
    """Write what is drawn as columns beside the bars: in the plot, numbers of bars and ticks look alike.

    A narrow sheet has room for those of the whole bar and the tick.
    """
    numbers = {name: text for name, text in NUMBERS.items() if name != peak_column(WORKSPACE) or not sheet.narrow}
    places = (28, 96) if sheet.narrow else (40, 105, 180)
    at: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False, "ha": "right"}
    for place_points, (column, heading) in zip(places, numbers.items(), strict=True):
        points = place_points * sheet.scale
        axes.annotate(
            heading, (1, 1), (points, 2), "axes fraction", va="bottom", color="#444444", linespacing=1.1, **at
        )
        for place, (_, entry) in enumerate(rows):
            if entry:
                axes.annotate(
                    mebibytes(bytes_of(entry, column)),
                    (1, place),
                    (points, 0),
                    ("axes fraction", "data"),
                    va="center_baseline",
                    **at,
                )


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
