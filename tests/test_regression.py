"""The memory check lists every difference and passes only when there is none."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.config import cells, presets, read_config
from bench.errors import InputError
from bench.regression import (
    Difference,
    _command,
    compare,
    github_annotation,
    read_reference,
    write_junit,
    write_reference,
)

REFERENCE = {
    "environment": {"torch": "2.14.1"},
    "metrics": {
        "a": {"peak_requested_bytes": 10, "least_budget_bytes": None},
        "b": {"peak_requested_bytes": 5},
    },
}


def measured(**changes: dict) -> dict:
    return {**REFERENCE, **changes}


def differing(name: str = "b", **changes: object) -> list[Difference]:
    metrics = {**REFERENCE["metrics"], name: {**REFERENCE["metrics"][name], **changes}}
    return compare(REFERENCE, measured(metrics=metrics))


def test_equal_numbers_make_no_difference():
    assert compare(REFERENCE, measured()) == []


@pytest.mark.parametrize(("actual", "told"), [(6, "is 6 (+1)"), (4, "is 4 (-1)"), (None, "is ?")])
def test_a_byte_more_or_less_or_no_number_is_a_change(actual: int | None, told: str):
    (difference,) = differing(peak_requested_bytes=actual)
    assert (difference.entry, difference.kind) == ("b", "changed")
    assert difference.details == (f"peak_requested_bytes was 5, {told}",)


def test_added_and_missing_entries_are_listed():
    metrics = {"a": REFERENCE["metrics"]["a"], "c": {"peak_requested_bytes": 1000}}
    missing, added = compare(REFERENCE, measured(metrics=metrics))
    assert str(added).startswith("added    c\n         peak 1,000 bytes is not in the reference")
    assert str(missing).startswith("missing  b\n")


def test_another_environment_is_a_change():
    (difference,) = compare(REFERENCE, measured(environment={"torch": "2.15"}))
    assert difference == Difference("environment", "changed", ("torch was 2.14.1, is 2.15",))


def test_a_change_names_the_parts_of_the_peak_that_differ_most_and_the_command():
    parts = {f"activations of conv{number} in forward": number for number in range(9)}
    reference = {**REFERENCE, "portions": {"b": parts}}
    grown = {
        **parts,
        **{part: 3 * size for part, size in parts.items() if size > 2},
        "activations of new in forward": 99,
    }
    changed = {
        **reference,
        "metrics": {**REFERENCE["metrics"], "b": {"peak_requested_bytes": 6}},
        "portions": {"b": grown},
        "commands": {"b": "profl measure"},
    }
    (difference,) = compare(reference, changed)
    assert difference.details[1:] == (
        "at the peak: activations of new in forward +99 bytes",
        *(f"at the peak: activations of conv{number} in forward {2 * number:+} bytes" for number in (8, 7, 6, 5)),
    )
    assert str(difference).endswith("see it: profl measure")


@pytest.mark.parametrize(
    ("tolerance", "grown", "passes"), [("10%", 110, True), ("10%", 111, False), ("8B", 92, True), ("8B", 91, False)]
)
def test_a_tolerance_holds_in_another_environment(tolerance: str, grown: int, passes: bool):
    reference = {**REFERENCE, "metrics": {"a": {"peak_requested_bytes": 100}}, "tolerance": tolerance}
    other = {"environment": {"torch": "2.15"}, "metrics": {"a": {"peak_requested_bytes": grown}}}
    assert (compare(reference, other) == []) is passes


def test_a_tolerance_of_one_entry_is_for_it_alone():
    reference = {**REFERENCE, "tolerances": {"a": "1MiB"}}
    physical = {"torch": "2.14.1", "is_virtual": False}
    metrics = {"a": {"peak_requested_bytes": 11, "least_budget_bytes": None}, "b": {"peak_requested_bytes": 6}}
    assert [found.entry for found in compare(reference, measured(environment=physical, metrics=metrics))] == [
        "environment",
        "b",
    ]


def test_a_tolerance_does_not_blur_what_can_be_exact():
    reference = {**REFERENCE, "tolerance": "50%"}
    metrics = {**REFERENCE["metrics"], "b": {"peak_requested_bytes": 6}}
    assert [found.entry for found in compare(reference, measured(metrics=metrics))] == ["b"]


def test_a_tolerance_that_cannot_be_read_is_named(tmp_path: Path):
    write_reference(tmp_path, REFERENCE, {"tolerance": "a bit"})
    with pytest.raises(InputError, match="tolerance 'a bit' is neither a share such as 2% nor an amount"):
        read_reference(tmp_path)


def test_junit_has_a_case_per_entry_and_a_failure_per_difference(tmp_path: Path):
    differences = differing(peak_requested_bytes=6)
    write_junit(tmp_path / "ci" / "memory.xml", REFERENCE["metrics"], differences)
    suite = ElementTree.parse(tmp_path / "ci" / "memory.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite.iter("testcase")] == ["a", "b"]
    assert [failure.text for failure in suite.iter("failure")] == [str(differences[0])]


def test_an_annotation_is_one_line():
    (difference,) = differing(peak_requested_bytes=6)
    assert github_annotation(difference) == (
        "::error title=memory changed::changed  b%0A         peak_requested_bytes was 5, is 6 (+1)"
    )


def test_a_command_measures_its_entry_alone():
    config = read_config(presets()["default"])
    cell = next(cell for cell in cells(config) if cell.method == "heterofl")
    assert _command(cell, "subnetwork 1/2 scaled") == (
        "profl measure --method heterofl --task 'subnetwork 1/2 scaled' --model resnet18 --width 16 --batch-size 8 "
        "--dataset digits --gpu virtual:jetson-orin"
    )


def test_what_is_written_is_read(tmp_path: Path):
    write_reference(tmp_path / "new", REFERENCE)
    assert read_reference(tmp_path / "new") == REFERENCE


def test_a_missing_or_damaged_reference_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="--update"):
        read_reference(tmp_path)
    (tmp_path / "default.json").write_text("[]")
    with pytest.raises(InputError, match="no environment and metrics"):
        read_reference(tmp_path)
