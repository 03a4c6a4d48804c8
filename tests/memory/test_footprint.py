"""Footprints as values: what they hold, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from bench.memory.footprint import Block, Environment, Footprint, Timeline
from bench.memory.plot import timeline_figure, write_timeline
from bench.memory.workload import CATEGORIES

MIB = 1 << 20
LIVE = {name: [0, 0, 0] for name in CATEGORIES} | {
    "parameters": [0, 2 * MIB, 2 * MIB],
    "activations": [0, 6 * MIB, 0],
}
FOOTPRINT = Footprint(
    key="tiny",
    steps=1,
    peak_requested_bytes=8 * MIB,
    peak_allocated_bytes=9 * MIB,
    peak_reserved_bytes=22 * MIB,
    least_budget_bytes=None,
    parameter_bytes=2 * MIB,
    peak_activation_bytes=6 * MIB,
    categories_at_peak={name: values[1] for name, values in LIVE.items()},
    largest_blocks=(Block(6 * MIB, "activations"), Block(2 * MIB, "parameters")),
    nvml_used_bytes=None,
    environment=Environment("virtual:t4", "virtual t4", True, 15 << 30, "2.14.1", "13.0", "92400", "default"),
    timeline=Timeline(LIVE, ((0, "prepare"), (0, "between"), (1, "forward"))),
)


def test_categories_must_sum_to_the_peak() -> None:
    with pytest.raises(ValueError, match="tiny: the categories sum to 8388608 bytes, the peak is 8388609"):
        replace(FOOTPRINT, peak_requested_bytes=8 * MIB + 1)


def test_json_and_back() -> None:
    assert Footprint.from_dict(json.loads(json.dumps(FOOTPRINT.to_dict(timeline=True)))) == FOOTPRINT
    without = json.loads(json.dumps(FOOTPRINT.to_dict()))
    assert "timeline" not in without
    assert without["nvml_used_bytes"] is None
    assert Footprint.from_dict(without) == replace(FOOTPRINT, timeline=None)


def test_the_frame_has_a_row_for_every_category() -> None:
    frame = FOOTPRINT.frame()
    assert list(frame.index) == list(CATEGORIES)
    assert frame.index.name == "category"
    assert frame.loc["activations"].to_dict() == {"bytes": 6 * MIB, "share": 0.75}
    assert frame["share"].sum() == pytest.approx(1)
    assert frame["bytes"].dtype == "int64"


def test_the_figure_names_peak_device_and_categories() -> None:
    figure = timeline_figure(FOOTPRINT)
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "tiny\non virtual t4"
    assert {text.get_text() for text in axes.texts} == {"peak 8.0 MiB", "step 1"}
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert sorted(label.rpartition("  ")[0] for label in labels) == sorted(CATEGORIES)
    assert "activations  6.0" in labels


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_figure_is_written_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / "new" / f"{number}{suffix}" for number in range(2)]
    for path in paths:
        write_timeline(FOOTPRINT, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == ".png":
        assert imread(paths[0]).std() > 0.1  # not a blank page


def test_no_figure_without_a_timeline() -> None:
    with pytest.raises(ValueError, match="measure it with timeline=True"):
        timeline_figure(replace(FOOTPRINT, timeline=None))
