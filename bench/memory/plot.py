"""Draw a timeline: live bytes by category, from building the module to the last step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from profl.bench.files import naming
from profl.bench.memory.timeline import Timeline

MEBIBYTE = 1 << 20
_WIDTH_INCHES, _HEIGHT_INCHES = 850 / 96, 420 / 96
_GREY = "#6E6E6E"

# Okabe and Ito's colours stay apart for colour-blind readers; neighbours in the stack differ in lightness
# too. The order is the stack's, from what is always there to what comes and goes.
CATEGORY_COLOURS = {
    "parameters": "#0072B2",
    "optimizer state": "#E69F00",
    "buffers": "#000000",
    "inputs": "#F0E442",
    "gradients": "#009E73",
    "activations": "#56B4E9",
    "workspace": "#D55E00",
    "temporaries": "#CC79A7",
}
_SETTINGS: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "profl",
}


def timeline_figure(
    timeline: Timeline,
    categories_at_peak: Mapping[str, int],
    title: str,
    colours: Mapping[str, str] = CATEGORY_COLOURS,
) -> Figure:
    """Return the figure: one stacked area per category, the peak marked and named, MiB over allocator events.

    ``colours`` names the timeline's categories in the order of the stack.
    """
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), dpi=96, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw_areas(axes, timeline, categories_at_peak, colours)
        _draw_peak(axes, timeline, sum(categories_at_peak.values()) / MEBIBYTE)
        _draw_steps(axes, timeline)
        axes.set_ylabel("live memory requested, MiB")
        axes.set_xlabel("event of the allocator (allocation or release)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title, loc="left", fontsize=9, wrap=True, pad=18)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False, title="at the peak, MiB")
    return figure


def write_timeline(
    timeline: Timeline,
    categories_at_peak: Mapping[str, int],
    title: str,
    path: Path,
    colours: Mapping[str, str] = CATEGORY_COLOURS,
) -> None:
    """Write the figure to ``path``; its suffix (``.png``, ``.svg``, ...) decides the format."""
    figure = timeline_figure(timeline, categories_at_peak, title, colours)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None  # the same numbers give the same file
    with naming(path), rc_context(_SETTINGS):
        figure.savefig(path, dpi=144, metadata=metadata)


def _draw_areas(
    axes: Axes, timeline: Timeline, categories_at_peak: Mapping[str, int], colours: Mapping[str, str]
) -> None:
    live_mebibytes = np.array([timeline.live_bytes[name] for name in colours]) / MEBIBYTE
    labels = [f"{name}  {categories_at_peak[name] / MEBIBYTE:,.1f}" for name in colours]
    moments = np.arange(live_mebibytes.shape[1])
    axes.stackplot(moments, live_mebibytes, labels=labels, colors=list(colours.values()), step="post", linewidth=0)
    axes.set_xlim(0, len(moments) - 1)


def _draw_peak(axes: Axes, timeline: Timeline, peak_mebibytes: float) -> None:
    total_bytes = np.array(list(timeline.live_bytes.values())).sum(axis=0)
    moment = int(total_bytes.argmax())
    axes.plot([moment], [peak_mebibytes], marker="v", color="black", markersize=7, clip_on=False)
    late = moment > 0.75 * len(total_bytes)
    axes.annotate(
        f"peak {peak_mebibytes:,.1f} MiB",
        (moment, peak_mebibytes),
        xytext=(-8 if late else 8, 5),
        textcoords="offset points",
        ha="right" if late else "left",
        weight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # the line of a step may pass behind it
    )
    axes.set_ylim(0, peak_mebibytes * 1.08)


def _draw_steps(axes: Axes, timeline: Timeline) -> None:
    """Mark where every step begins, above the plot."""
    starts = [moment for moment, name in timeline.phases if name == "forward"]
    for number, moment in enumerate(starts, start=1):
        axes.axvline(moment, color=_GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate(
            f"step {number}",
            (moment, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, 3),
            textcoords="offset points",
            color=_GREY,
        )
