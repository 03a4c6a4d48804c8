"""Footprints as values: what they hold, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.image import imread

from profl.bench.memory.footprint import (
    Block,
    Environment,
    Footprint,
    PeakPosition,
    Portion,
    Stage,
    stage_of,
)
from profl.bench.memory.plot import timeline_figure
from profl.bench.memory.summary import REMEDIES
from profl.bench.memory.timeline import Timeline
from profl.bench.memory.workload import CATEGORIES

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
ATTRIBUTED = replace(
    FOOTPRINT,
    attribution=(
        Portion("forward", "activations", "body.0.conv", True, 4 * MIB),
        Portion("forward", "activations", "body.1", False, 2 * MIB),
        Portion("prepare", "parameters", None, None, 2 * MIB),
    ),
    stages=(Stage("body.0", MIB, 4 * MIB), Stage("body.1", MIB, 2 * MIB)),
    peak_position=PeakPosition(1, "forward", "body.1", "conv2d"),
    caveats=("reads numbers",),
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


def test_a_footprint_of_an_earlier_version_is_read() -> None:
    earlier = json.loads(json.dumps(FOOTPRINT.to_dict()))
    for name in ("stages", "peak_position", "caveats"):
        del earlier[name]
    earlier["largest_blocks"] = [{"bytes": 1, "category": "inputs"}]
    footprint = Footprint.from_dict(earlier)
    assert footprint.largest_blocks == (Block(1, "inputs", None, None),)
    assert (footprint.attribution, footprint.stages, footprint.peak_position) == ((), (), None)


def test_modules_must_sum_to_the_peak() -> None:
    with pytest.raises(ValueError, match="tiny: the modules sum to 8388607 bytes, the peak is 8388608"):
        replace(FOOTPRINT, attribution=(replace(ATTRIBUTED.attribution[0], bytes=8 * MIB - 1),))


def test_the_attribution_is_written_only_if_asked_for() -> None:
    assert "attribution" not in ATTRIBUTED.to_dict()
    values = json.loads(json.dumps(ATTRIBUTED.to_dict(timeline=True, attribution=True)))
    assert Footprint.from_dict(values) == ATTRIBUTED


def test_the_frame_has_a_row_for_every_portion() -> None:
    frame = ATTRIBUTED.frame()
    assert list(frame.columns) == ["phase", "category", "module", "stage", "saved", "bytes", "share"]
    assert frame["module"].tolist() == ["body.0.conv", "body.1", "?"]
    assert frame["stage"].tolist() == ["body.0", "body.1", "?"]
    assert frame["saved"].tolist() == [True, False, pd.NA]
    assert frame["share"].tolist() == [0.5, 0.25, 0.25]
    assert frame["bytes"].dtype == "int64"


def test_the_frame_without_attribution_has_a_row_for_every_category() -> None:
    frame = FOOTPRINT.frame().set_index("category")
    assert list(frame.index) == list(CATEGORIES)
    assert frame.loc["activations", ["module", "bytes", "share"]].tolist() == ["?", 6 * MIB, 0.75]


@pytest.mark.parametrize(
    ("module", "stage"),
    [("body.1.conv", "body.1"), ("body.10", "body.10"), ("head", "head"), ("(step)", "(step)"), (None, None)],
)
def test_the_stage_of_a_module(module: str | None, stage: str | None) -> None:
    assert stage_of(module, ["body.1", "head", "bod"]) == stage


def test_the_figure_names_peak_device_and_categories() -> None:
    figure = timeline_figure(FOOTPRINT.kept_timeline, FOOTPRINT.categories_at_peak, "tiny\non virtual t4")
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
        FOOTPRINT.plot(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == ".png":
        assert imread(paths[0]).std() > 0.1  # not a blank page


def test_no_figure_and_no_trace_without_a_timeline(tmp_path: Path) -> None:
    untimed = replace(FOOTPRINT, timeline=None)
    for write in (untimed.plot, untimed.write_trace):
        with pytest.raises(ValueError, match="measure it with timeline=True"):
            write(tmp_path / "tiny.png")


def test_the_trace_has_slices_for_phases_and_steps_and_a_counter_by_category(tmp_path: Path) -> None:
    phases = [(0, "prepare"), (1, "between"), (1, "forward"), (1, "backward"), (2, "between")]
    timed = replace(FOOTPRINT, timeline=Timeline(LIVE, tuple(phases)))
    timed.write_trace(tmp_path / "new" / "tiny.json")
    events = json.loads((tmp_path / "new" / "tiny.json").read_text())["traceEvents"]

    assert {event["ph"] for event in events} == {"M", "X", "C"}
    assert all({"pid", "tid", "name"} <= event.keys() for event in events)
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    slices = [
        (tracks[event["tid"]], event["name"], event["ts"], event["dur"]) for event in events if event["ph"] == "X"
    ]
    assert slices == [
        ("phases", "prepare", 0, 1),
        ("phases", "between", 1, 0),
        ("phases", "forward", 1, 0),
        ("phases", "backward", 1, 1),
        ("phases", "between", 2, 0),
        ("steps", "step 1", 1, 1),
    ]
    counters = [(event["ts"], event["args"]) for event in events if event["ph"] == "C"]
    assert [moment for moment, _ in counters] == [0, 1, 2]
    assert [sum(live.values()) for _, live in counters] == [0, 8 * MIB, 2 * MIB]
    assert list(counters[1][1]) == list(CATEGORIES)


def test_printed_it_is_a_summary_and_its_repr_a_line() -> None:
    assert str(ATTRIBUTED).splitlines() == [
        "tiny on virtual t4",
        "peak 8.0 MiB requested, 9.0 MiB allocated, 22.0 MiB reserved; in step 1, forward in body.1 by conv2d",
        "  activations          6.0 MiB    75%",
        "  parameters           2.0 MiB    25%",
        "most of it is activations: less with smaller batches, or torch.utils.checkpoint",
        "careful: reads numbers",
    ]
    assert "16.0 MiB least budget" in str(replace(FOOTPRINT, least_budget_bytes=16 * MIB))
    assert repr(ATTRIBUTED) == "<Footprint of tiny on virtual t4: peak 8.0 MiB requested>"


def test_a_notebook_shows_the_same_with_a_bar_for_every_category() -> None:
    odd = replace(ATTRIBUTED, key='a <b> & "c"', caveats=("<script>",))
    page = ElementTree.fromstring(odd._repr_html_())
    assert page.findtext("div/b") == 'a <b> & "c" on virtual t4'
    told = str(odd).splitlines()
    assert [line.text for line in page.findall("div")[1:]] == [told[1], *told[4:]]
    rows = [[cell.text for cell in row] for row in page.iter("tr")]
    assert rows == [["activations", "6.0 MiB", "75%", None], ["parameters", "2.0 MiB", "25%", None]]
    assert [span.get("style", "").rpartition(" ")[2] for span in page.iter("span")] == ["7.50em", "2.50em"]


def test_every_category_that_can_dominate_has_a_remedy() -> None:
    assert set(CATEGORIES) - set(REMEDIES) == {"buffers"}
