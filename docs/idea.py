"""Draw `docs/idea.png`, the idea in one picture, from the default run's measured tasks: ``python docs/idea.py``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from profl.bench.report.looks import looks
from profl.bench.report.style import GREY, PALE, Legend, house_style, mebibytes, page, save

ROOT = Path(__file__).parents[1]
FOOTPRINTS = ROOT / "results/default/report/footprints.csv"

BLOCKS = 4
TRAINED, FROZEN, STANDS_IN, ABSENT = "trained", "frozen", "a small layer stands in", "left out"


class Row(NamedTuple):
    """A task: of which method, called how there and here, what it does with every block, and how wide they are."""

    method: str
    task: str
    words: str
    blocks: tuple[str, ...]
    width: float = 1.0


ROWS = (
    Row("exclusive", "full model", "the whole model", (TRAINED,) * BLOCKS),
    Row("heterofl", "subnetwork 1/2 scaled", "half as wide", (TRAINED,) * BLOCKS, 0.5),
    Row("depthfl", "depth 2", "half as deep", (TRAINED, TRAINED, ABSENT, ABSENT)),
    *(
        Row(
            "profl",
            f"grow {step}",
            f"step {step}: block {step}",
            (FROZEN,) * (step - 1) + (TRAINED,) + (STANDS_IN,) * (BLOCKS - step),
        )
        for step in range(1, BLOCKS + 1)
    ),
)
DEVICES = (0.25, 0.5, 0.75, 1.0)
"""Memory of four devices, as shares of what the full model needs."""

METHOD, WORDS, NETWORK, MEMORY, END = 0.0, 1.15, 2.75, 4.55, 8.6
"""Where the columns begin, in inches, and where the last one ends."""


def draw() -> Figure:
    """Draw every task: what it does with the blocks, the memory it needs, and which devices can train it."""
    measured = pd.read_csv(FOOTPRINTS)
    least = measured.set_index(["method", "task"])["least_budget_bytes"]
    full = least["exclusive", "full model"]
    devices = [share * full for share in DEVICES]
    scale = (END - MEMORY) / (1.06 * full)
    first = measured.iloc[0]
    notes = [
        "Bar: least budget, the smallest memory in which training steps of the task really ran. Dot: the device can."
        " Ring: it cannot.",
        f"{first['measured_model']} of width {first['measured_width']}, batch {first['batch_size']}, measured on a"
        f" virtual GPU: {first['gpu'].removeprefix('virtual:')}. Some tasks of four methods; results/default has all.",
    ]
    title = "A device trains what its memory holds"
    under = "Four devices and what they are offered: the blocks of a network, and the measured memory of training them"
    figure = page(0.42 * len(ROWS) + 0.75, title, under, notes, Legend(_legend(), 4))
    axes = figure.subplots()
    axes.set(xlim=(METHOD, END + 0.05), ylim=(len(ROWS) - 0.4, -1.6))
    axes.set_axis_off()
    for share, size in zip(DEVICES, devices, strict=True):
        x = MEMORY + scale * size
        axes.plot([x, x], [-0.6, len(ROWS) - 0.5], color=PALE, lw=1.2, zorder=0.5)
        axes.text(x, -0.7, f"{100 * share:.0f} %\n{mebibytes(size)} MiB", ha="center", va="bottom", linespacing=1.15)
    axes.text(NETWORK, -0.7, "its four blocks", va="bottom", color=GREY)
    axes.text(WORDS, -0.7, "task", va="bottom", color=GREY)
    axes.text(METHOD, -0.7, "method", va="bottom", color=GREY)
    axes.text(MEMORY, -0.7, "device", va="bottom", color=GREY)
    known = looks([row.method for row in ROWS], [])
    for place, row in enumerate(ROWS):
        look, size = known[row.method], least[row.method, row.task]
        named = place == 0 or ROWS[place - 1].method != row.method
        axes.text(METHOD, place, row.method * named, va="center", color=look.ink, weight="bold")
        axes.text(WORDS, place, row.words, va="center")
        _draw_network(axes, place, row, look.colour)
        axes.barh(place, scale * size, left=MEMORY, height=0.42, color=look.colour, alpha=0.35, lw=0)
        for budget in devices:
            can = size <= budget
            face, edge = (look.colour, "white") if can else ("white", look.colour)
            axes.plot(MEMORY + scale * budget, place, marker="o", ms=9, mfc=face, mec=edge, mew=1.2)
    return figure


def _draw_network(axes: Axes, place: int, row: Row, colour: str) -> None:
    for block, state in enumerate(row.blocks):
        tall = 0.62 * row.width if state != STANDS_IN else 0.2
        corner = (NETWORK + 0.37 * block, place - tall / 2)
        axes.add_patch(Rectangle(corner, 0.3, tall, **_filling(state, colour)))


def _filling(state: str, colour: str) -> dict:
    return {
        TRAINED: {"facecolor": colour, "edgecolor": colour},
        FROZEN: {"facecolor": PALE, "edgecolor": GREY},
        STANDS_IN: {"facecolor": "white", "edgecolor": colour},
        ABSENT: {"facecolor": "none", "edgecolor": PALE, "linestyle": ":"},
    }[state]


def _legend() -> list[Patch]:
    return [Patch(label=state, **_filling(state, GREY)) for state in (TRAINED, FROZEN, STANDS_IN, ABSENT)]


def write(folder: Path) -> list[Path]:
    """Write the picture as PNG and SVG; the same results give the same bytes."""
    with house_style():
        return save(draw(), folder, "idea")


if __name__ == "__main__":
    write(Path(__file__).parent)
