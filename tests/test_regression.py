"""The memory check lists every difference and passes only when there is none."""

from pathlib import Path

import pytest

from bench.errors import InputError
from bench.regression import compare, read_reference, write_reference

REFERENCE = {
    "environment": {"torch": "2.14.1"},
    "metrics": {
        "a": {"peak_requested_bytes": 10, "least_budget_bytes": None},
        "b": {"peak_requested_bytes": 5},
    },
}


def measured(**changes: dict) -> dict:
    return {**REFERENCE, **changes}


def test_equal_numbers_make_no_line():
    assert compare(REFERENCE, measured()) == []


def test_one_byte_more_is_a_change():
    metrics = {**REFERENCE["metrics"], "b": {"peak_requested_bytes": 6}}
    assert compare(REFERENCE, measured(metrics=metrics)) == ["changed  b: peak_requested_bytes was 5, is 6 (+1)"]


def test_fewer_bytes_are_a_change_too():
    metrics = {**REFERENCE["metrics"], "b": {"peak_requested_bytes": 4}}
    assert compare(REFERENCE, measured(metrics=metrics)) == ["changed  b: peak_requested_bytes was 5, is 4 (-1)"]


def test_added_and_missing_entries_are_listed():
    metrics = {"a": REFERENCE["metrics"]["a"], "c": {"peak_requested_bytes": 1000}}
    added, missing = compare(REFERENCE, measured(metrics=metrics))[::-1]
    assert added == "added    c: peak 1,000 bytes is not in the reference"
    assert missing.startswith("missing  b:")


def test_a_metric_that_is_no_longer_known_is_a_change():
    metrics = {**REFERENCE["metrics"], "b": {}}
    assert compare(REFERENCE, measured(metrics=metrics)) == ["changed  b: peak_requested_bytes was 5, is ?"]


def test_another_environment_is_a_change():
    lines = compare(REFERENCE, measured(environment={"torch": "2.15"}))
    assert lines == ["changed  environment: torch was 2.14.1, is 2.15"]


def test_what_is_written_is_read(tmp_path: Path):
    write_reference(tmp_path / "new", REFERENCE)
    assert read_reference(tmp_path / "new") == REFERENCE


def test_a_missing_or_damaged_reference_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="--update"):
        read_reference(tmp_path)
    (tmp_path / "default.json").write_text("[]")
    with pytest.raises(InputError, match="no environment and metrics"):
        read_reference(tmp_path)
