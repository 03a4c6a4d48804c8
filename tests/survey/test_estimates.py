"""The committed table of models: complete, plausible, and what it says of the error of estimates."""

from __future__ import annotations

from pathlib import Path

import pytest

from profl.bench.memory.estimate.estimating import LARGEST_ERRORS
from profl.bench.survey.models import GPUS, TABLE, entries, errors
from profl.bench.survey.table import PEAKS

ROWS = TABLE.frame(TABLE.read(Path(__file__).parents[2] / "results" / "survey" / "models.csv"))
MEASURED = ROWS[ROWS["gpu"].isin(GPUS)]
ERRORS = errors(ROWS)


def test_every_model_is_there_on_every_gpu_and_none_failed():
    known = set(zip(MEASURED["model"], MEASURED["gpu"], MEASURED["precision"], strict=True))
    assert known == {(entry.classifier.name, entry.gpu, entry.classifier.precision) for entry in entries()}
    assert ROWS["failure"].isna().all()
    assert ROWS[list(PEAKS)].notna().all(axis=None)


def test_peaks_come_in_their_order():
    assert (ROWS["peak_requested_bytes"] <= ROWS["peak_allocated_bytes"]).all()
    assert (ROWS["peak_allocated_bytes"] <= ROWS["peak_reserved_bytes"]).all()
    # The search goes in steps of 2 MiB or of 1/256 of the peak, and may end up to a step above it.
    step = (ROWS["peak_reserved_bytes"] / 256).clip(lower=2 << 20)
    assert (ROWS["least_budget_bytes"] <= ROWS["peak_reserved_bytes"] + step).all()


@pytest.mark.parametrize("peak", ["peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes"])
def test_estimates_are_as_near_as_their_caveat_says(peak: str):
    assert len(ERRORS) == 96
    assert ERRORS[peak].abs().max() <= LARGEST_ERRORS[peak]
    # The bound says something: a fifth less would be broken.
    assert ERRORS[peak].abs().max() > 0.8 * LARGEST_ERRORS[peak]


def test_least_budgets_are_no_farther_off_than_reserved_bytes():
    assert ERRORS["least_budget_bytes"].abs().max() <= LARGEST_ERRORS["peak_reserved_bytes"]
