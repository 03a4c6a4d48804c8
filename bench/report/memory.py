"""Figures of memory: what each task holds at its peak, and which devices it lets take part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from profl.bench.memory.plot import CATEGORY_COLOURS
from profl.bench.report.study import Study
from profl.bench.report.style import GREY, IDEAL, PALE, in_order, legend_above, mebibytes, page, say_empty
from profl.bench.results import peak_column

ROW = 0.195
"""Inches per bar."""

NUMBERS = {"peak_requested_bytes": "peak\n(bar)", "least_budget_bytes": "least budget\n(tick)"}
"""What is written beside the bars, and its heading."""


def peak_memory(study: Study) -> Figure:
    """Draw what every task of every method holds at its peak, by category, and its least budget."""
    prints = [dict(entry) for entry in study.footprints.to_dict("records")]
    rows = _rows(prints)
    full = study.cells["full_model_least_budget_bytes"].max() / 2**20
    notes = [
        "Bar, and first number: requested bytes alive at the peak, from building the module to the last step. Tick,"
        " and second number: least budget, the smallest memory in which the steps run; it adds what the allocator"
        " rounds up and cannot reuse."
    ]
    if math.isfinite(full):
        notes.append(f"Dashed line: least budget of the full model, {mebibytes(full * 2**20)} MiB.")
    if any(math.isnan(_bytes(entry, column)) for entry in prints for column in NUMBERS):
        notes.append("?: not measured.")
    title = "Peak memory of local training, by method and task"
    figure = page(0.85 + ROW * max(len(rows), 4), title, study.setting, notes, legend=0.45)
    axes = figure.subplots()
    reach = [_draw_bar(axes, place, entry) for place, (_, entry) in enumerate(rows) if entry]
    if rows:
        _write_numbers(axes, rows)
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
    handles = [Patch(color=colour, label=name) for name, colour in CATEGORY_COLOURS.items()]
    tick = Line2D([], [], color="black", ls="", marker="|", ms=11, mew=1.8, label="least budget")
    legend_above(figure, [*handles, tick], columns=5)
    return figure


def _rows(prints: Sequence[dict[Any, Any]]) -> list[tuple[str, dict[Any, Any]]]:
    """Return names and footprints from top to bottom; a method's heading has an empty footprint."""
    varies = len({entry["batch_size"] for entry in prints}) > 1
    rows: list[tuple[str, dict[Any, Any]]] = []
    for method in in_order([entry["method"] for entry in prints]):
        rows.append((method, {}))
        for entry in prints:
            if entry["method"] == method:
                batch = f", batch {entry['batch_size']}" if varies else ""
                rows.append((f"{entry['task']}{batch}", entry))
    return rows


def _bytes(entry: Mapping[Any, Any], column: str) -> float:
    """Return a number of bytes, NaN if it was not measured."""
    value = entry.get(column)
    return math.nan if value is None else float(value)


def _draw_bar(axes: Axes, place: int, entry: Mapping[Any, Any]) -> float:
    """Draw one task and return how far it reaches, in MiB."""
    left = 0.0
    for name, colour in CATEGORY_COLOURS.items():
        size = _bytes(entry, peak_column(name)) / 2**20
        if size > 0:
            axes.barh(place, size, left=left, color=colour, height=0.74, edgecolor="white", linewidth=0.3)
            left += size
    least = _bytes(entry, "least_budget_bytes") / 2**20
    if math.isfinite(least):
        ends = [place - 0.4, place + 0.4]
        axes.plot([least, least], ends, color="black", lw=1.8, solid_capstyle="butt")
        left = max(left, least)
    return left


def _write_numbers(axes: Axes, rows: Sequence[tuple[str, Mapping[Any, Any]]]) -> None:
    """Write what is drawn as two columns beside the bars: in the plot, numbers of bars and ticks look alike."""
    at: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False, "ha": "right"}
    for points, (column, heading) in zip((40, 110), NUMBERS.items(), strict=True):
        axes.annotate(
            heading, (1, 1), (points, 2), "axes fraction", va="bottom", color="#444444", linespacing=1.1, **at
        )
        for place, (_, entry) in enumerate(rows):
            if entry:
                axes.annotate(
                    mebibytes(_bytes(entry, column)),
                    (1, place),
                    (points, 0),
                    ("axes fraction", "data"),
                    va="center_baseline",
                    **at,
                )


def participation(study: Study) -> Figure:
    """Draw the share of devices that can train anything, as a coloured table of tiers and methods."""
    shares = study.figures("participation_share")
    tiers, methods = study.tiers, study.methods
    notes = ["Mean over the rounds of the share of devices that an offered task fits. ?: no result."]
    title = "Share of devices that can take part (%)"
    height = (1.2 if len(methods) > 8 else 0.55) + 0.5 * len(tiers)
    figure = page(height, title, study.training_setting, notes + study.notes)
    axes = figure.subplots()
    means = [[shares[method, tier].mean for method in methods] for tier in tiers]
    axes.imshow(means, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for down, tier in enumerate(tiers):
        for across, method in enumerate(methods):
            share = shares[method, tier].times(100)
            style: dict[str, Any] = {"color": "white" if share.mean > 70 else "#222222", "size": 10}
            text = f"{share.mean:.0f}%"
            if not share.known:
                text = "?"
                style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 2}
                hatching: dict[str, Any] = {
                    "facecolor": "white",
                    "edgecolor": PALE,
                    "hatch": "///",
                    "linewidth": 0,
                }
                axes.add_patch(Rectangle((across - 0.5, down - 0.5), 1, 1, **hatching))
            elif round(share.high) != round(share.low):
                text += f"\n{share.low:.0f} to {share.high:.0f}"
            axes.text(across, down, text, ha="center", va="center", **style)
    names = [f"{name} (ideal)" if name == IDEAL else name for name in methods]
    slant: dict[str, Any] = {"rotation": 30, "ha": "left"} if len(methods) > 8 else {}
    axes.set_xticks(range(len(methods)), names, **slant)
    axes.set_yticks(range(len(tiers)), [study.tier_label(tier) for tier in tiers])
    axes.set_ylabel("memory tier")
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for edge in range(1, len(methods)):
        axes.axvline(edge - 0.5, color="white", lw=2)
    for edge in range(1, len(tiers)):
        axes.axhline(edge - 0.5, color="white", lw=2)
    return figure
