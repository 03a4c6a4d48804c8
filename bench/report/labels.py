"""Direct labels that do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

LINE = 12.0
"""Height in points of a line of labels."""

CHARACTER = 0.075
"""Width in inches that a character of a label takes."""

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
    line = (top - bottom) / height * LINE
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
