"""The picture of the idea says what was measured, and the committed one is what the code draws."""

import runpy
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
IDEA = runpy.run_path(str(ROOT / "docs" / "idea.py"))


def pinned(package: str) -> str:
    (line,) = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith(f"{package}=="))
    return line.partition("==")[2]


@pytest.mark.skipif(matplotlib.__version__ != pinned("matplotlib"), reason="another matplotlib draws other bytes")
def test_the_committed_picture_is_current(tmp_path: Path):
    for path in IDEA["write"](tmp_path):
        assert path.read_bytes() == (ROOT / "docs" / path.name).read_bytes(), "type: make idea"


def test_a_dot_says_whether_the_measured_task_fits_the_device():
    least = pd.read_csv(IDEA["FOOTPRINTS"]).set_index(["method", "task"])["least_budget_bytes"]
    full = least["exclusive", "full model"]
    (axes,) = IDEA["draw"]().axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    expected = [least[row.method, row.task] <= share * full for row in IDEA["ROWS"] for share in IDEA["DEVICES"]]
    assert [dot.get_markerfacecolor() != "white" for dot in dots] == expected
    bars = [bar.get_width() for bar in axes.patches if bar.get_height() == pytest.approx(0.42)]
    assert [bar / bars[0] for bar in bars] == pytest.approx(
        [least[row.method, row.task] / full for row in IDEA["ROWS"]]
    )
