"""The figure of growth: every panel has a title, every point is inside its frame, a colour means one thing."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from tests.benchmarks.growth import AXES, COLOURS, draw

TABLE = Path(__file__).parents[2] / "docs/growth/growth.csv"


def test_points_lie_inside_and_a_colour_means_the_same_in_every_panel(tmp_path: Path):
    with TABLE.open() as file:
        rows = [{**row, "size": int(row["size"]), "value": float(row["value"])} for row in csv.DictReader(file)]
    figure = draw(rows, tmp_path / "growth.png")
    assert [panel.get_title(loc="left") for panel in figure.axes[: len(AXES)]] == list(AXES)
    meant = defaultdict(set)
    for panel in figure.axes:
        low, high = panel.get_ylim()
        for line in panel.lines:
            assert low < min(line.get_ydata())
            assert max(line.get_ydata()) < 0.95 * high
        for label in panel.texts:
            meant[label.get_color()].add(next(word for word in COLOURS if word in label.get_text()))
    assert len(meant) == 4
    assert all(len(words) == 1 for words in meant.values())
