"""Direct labels that do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

LINE_HEIGHT = 4 / 3
"""Of a line of labels, as a multiple of the size of its text."""

Colour = str | tuple[float, float, float]


@dataclass(frozen=True)
class Label:
    """A text that belongs to the point (``x``, ``y``), in data units."""

    x: float
    y: float
    text: str
    colour: Colour
    weight: str = "normal"


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move numbers as little as possible (least squares) until any two are ``gap`` apart, inside [low, high].

    Order is kept, equal numbers keep the order given. If there is no room, the gap shrinks to what fits.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    # With the gaps taken out, 'apart' means 'not decreasing': neighbours that violate it go into one pool.
    pools: list[list[float]] = []
    for rank, place in enumerate(order):
        pools.append([wanted[place] - rank * gap])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    level = [_mean(pool) for pool in pools for _ in pool]
    ceiling = high - (len(wanted) - 1) * gap
    moved = [0.0] * len(wanted)
    for rank, place in enumerate(order):
        moved[place] = min(max(level[rank], low), ceiling) + rank * gap
    return moved


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def label_ends(axes: Axes, labels: Sequence[Label], column: float) -> None:
    """Write labels one below another at ``x = column``, each joined to its point by a thin line.

    The figure's layout must be settled: heights are measured.
    """
    bottom, top = axes.get_ylim()
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    points = LINE_HEIGHT * matplotlib.rcParams["font.size"]
    line = (top - bottom) / height * points
    places = apart([label.y for label in labels], line, bottom + line / 2, top - line / 2)
    for label, place in zip(labels, places, strict=True):
        axes.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(column, place),
            color=label.colour,
            weight=label.weight,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "lw": 0.6,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def label_points(axes: Axes, labels: Sequence[Label], lines: Sequence[tuple[float, float]] = ()) -> None:
    """Write each label beside its point; points in a heap get one block of labels, the highest on top.

    Blocks keep off points and other blocks, and if possible off ``lines``; one that found no place nearby is
    joined to its heap by a thin line. The figure's layout must be settled: places are measured. Greedy, so
    not always the best arrangement.

    Parameters
    ----------
    axes
        The panel.
    labels
        What to write.
    lines
        Further places to keep clear if possible, in data units.
    """
    dot = axes.figure.dpi / 72
    frame = axes.get_window_extent()
    to_data = axes.transData.inverted()
    marks = []
    for label in labels:
        x, y = axes.transData.transform((label.x, label.y))
        marks.append(Bbox.from_extents(x - 5 * dot, y - 5 * dot, x + 5 * dot, y + 5 * dot))
    clear = axes.transData.transform(lines) if lines else np.empty((0, 2))
    taken = list(marks)
    for heap in _heaps(marks, near=1 * dot):
        core = Bbox.union([marks[place] for place in heap])
        heap.sort(key=lambda place: -labels[place].y)
        texts = [axes.text(0, 0, labels[place].text, weight=labels[place].weight) for place in heap]
        sizes = [text.get_window_extent() for text in texts]
        width, line = max(size.width for size in sizes) + 2 * dot, 11.5 * dot
        choices = _candidates(core, width, line * len(heap), dot)
        # Rounded, so that of equally good places the first is taken.
        costs = [round(_cost(box, core, frame, taken, clear, dot), 3) for box in choices]
        best = choices[costs.index(min(costs))]
        taken.append(best)
        side = "right" if best.x1 < core.x0 + dot else "left" if best.x0 > core.x1 - dot else "center"
        across = {"right": best.x1 - dot, "left": best.x0 + dot, "center": (best.x0 + best.x1) / 2}[side]
        for rank, (place, text) in enumerate(zip(heap, texts, strict=True)):
            x, y = to_data.transform((across, best.y1 - (rank + 0.5) * line))
            text.set(x=x, y=y, ha=side, va="center", color=labels[place].colour)
        if _gap(best, core) > 4 * dot:
            ends = to_data.transform([_nearest(core, best), _nearest(best, core)])
            axes.plot(ends[:, 0], ends[:, 1], color=labels[heap[0]].colour, lw=0.6, alpha=0.6, zorder=1.5)


def _heaps(marks: Sequence[Bbox], near: float) -> list[list[int]]:
    """Group boxes that overlap or nearly do, directly or through others."""
    heaps: list[list[int]] = []
    for place, mark in enumerate(marks):
        met = [heap for heap in heaps if any(marks[other].padded(near).overlaps(mark) for other in heap)]
        heaps = [heap for heap in heaps if heap not in met]
        heaps.append([*(other for heap in met for other in heap), place])
    return heaps


def _candidates(core: Bbox, width: float, height: float, dot: float) -> list[Bbox]:
    """Return boxes around a heap, from near to far; to the right and to the left first."""
    middle, level = (core.x0 + core.x1) / 2, (core.y0 + core.y1) / 2
    boxes = []
    for reach in (1, 4, 9, 15, 22, 30, 40, 52):
        for angle in (0, 180, 35, -35, 145, -145, 90, -90, 65, -65, 115, -115, 15, -15, 165, -165):
            across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            x = middle + (core.width / 2 + reach * dot) * across
            y = level + (core.height / 2 + reach * dot) * up
            boxes.append(Bbox.from_bounds(x - width * (1 - across) / 2, y - height * (1 - up) / 2, width, height))
        # Quite beside it and quite below or above its middle, where a line may run.
        for left in (core.x1 + reach * dot, core.x0 - reach * dot - width):
            boxes += [Bbox.from_bounds(left, low, width, height) for low in (level - height - 2 * dot, level + 2 * dot)]
    return boxes


def _cost(box: Bbox, core: Bbox, frame: Bbox, taken: Sequence[Bbox], clear: NDArray[np.float64], dot: float) -> float:
    """Return how bad a box is; the weights rank the kinds of trouble."""
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    covered = box.count_overlaps(taken)
    touched = box.count_contains(clear) if len(clear) else 0
    return 1000 * (not inside) + 300 * covered + 4 * touched + _gap(box, core) / dot


def _nearest(box: Bbox, other: Bbox) -> tuple[float, float]:
    """Return the place of a box that is nearest to the middle of another."""
    x, y = (other.x0 + other.x1) / 2, (other.y0 + other.y1) / 2
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)


def _gap(box: Bbox, other: Bbox) -> float:
    """Return the distance between two boxes."""
    return math.hypot(max(box.x0 - other.x1, 0, other.x0 - box.x1), max(box.y0 - other.y1, 0, other.y0 - box.y1))
