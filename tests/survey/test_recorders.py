"""Recorders of memory on one small training step: what each says, and how the table is made."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from profl.bench.cli.survey import survey
from profl.bench.errors import InputError
from profl.bench.survey.classifier import Classifier
from profl.bench.survey.recorders import COLUMNS, CPU_STEP, ON_CPU, ON_GPU, OURS, SUBJECTS, TRUTH, compare

pytestmark = pytest.mark.covers_children

SMALL = {"small": Classifier("resnet18", batch_size=2, image_size=64)}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return compare(SMALL, lambda subject, recorder, seconds: None).set_index("recorder")


def test_every_recorder_records(table: pd.DataFrame):
    assert set(table.index) == {*ON_GPU, *OURS, *ON_CPU, CPU_STEP}
    assert set(table.reset_index().columns) == set(COLUMNS)
    assert table["failure"].isna().all()
    assert (table["seconds"] > 0).all()
    assert (table["cpu_step_seconds"] == table.loc[CPU_STEP, "seconds"]).all()


def test_recording_changes_no_byte_of_what_the_allocator_is_asked_for(table: pd.DataFrame):
    ours = table.loc["profl, virtual:h100"]
    assert ours["peak_bytes"] == table.loc[TRUTH, "peak_bytes"]
    assert ours["error_to_requested"] == 0
    assert ours["error_to_allocated"] < 0  # blocks are larger than what was asked for


def test_without_convolution_workspaces_the_peak_is_no_larger(table: pd.DataFrame):
    assert table.loc["profl, virtual:sm_90", "peak_bytes"] <= table.loc[TRUTH, "peak_bytes"]


def test_a_mem_tracker_sees_no_workspace(table: pd.DataFrame):
    """Those of cuBLAS alone are tens of MiB."""
    trackers = table.loc[[name for name in table.index if name.startswith("MemTracker")], "peak_bytes"]
    assert (table.loc[TRUTH, "peak_bytes"] - trackers > 30 << 20).all()
    assert (trackers > 2 * 4 * 11_689_512).all()  # parameters and gradients at least


def test_a_plain_step_says_nothing_of_memory(table: pd.DataFrame):
    assert pd.isna(table.loc[CPU_STEP, "peak_bytes"])
    assert math.isnan(table.loc[CPU_STEP, "error_to_requested"])


def test_a_recorder_that_fails_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import profl.bench.survey.recorders as recorders

    too_small = {"too small": Classifier("alexnet", batch_size=1, image_size=8)}
    monkeypatch.setattr(recorders, "SUBJECTS", too_small)
    monkeypatch.setattr(recorders, "ON_CPU", {})
    monkeypatch.setattr(recorders, "OURS", {})
    path = tmp_path / "recorders.csv"
    result = CliRunner().invoke(survey, ["recorders", "--output", str(path)], catch_exceptions=False)
    rows = pd.read_csv(path)
    assert rows["failure"].notna().all()
    assert rows[["peak_bytes", "seconds"]].isna().all(axis=None)
    assert f"{TRUTH} failed at too small: " in result.output


def test_an_unknown_subject_is_named():
    with pytest.raises(InputError, match="unknown subject 'lenet'"):
        CliRunner().invoke(survey, ["recorders", "--subject", "lenet"], catch_exceptions=False)
    assert len(SUBJECTS) >= 6
