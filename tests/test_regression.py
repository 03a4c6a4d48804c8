"""The memory check lists every difference and passes only when there is none."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from profl.bench.cli import main
from profl.bench.config import cells, read_config
from profl.bench.errors import InputError
from profl.bench.memory.footprint import Portion
from profl.bench.presets import presets
from profl.bench.reference import Sweep, read_reference, reference_files, write_reference
from profl.bench.regression import (
    ENVIRONMENT,
    Difference,
    _command,
    _portions,
    compare,
    github_annotation,
    verdict,
    write_junit,
)
from tests.results.conftest import MEASURED

DEFAULT = Sweep(preset="default")
REFERENCE = {
    "environment": {"torch": "2.14.1"},
    "metrics": {
        "a": {"peak_requested_bytes": 10, "least_budget_bytes": None},
        "b": {"peak_requested_bytes": 5},
    },
}


def altered(**values: object) -> str:
    """Return a reference file with other values."""
    return json.dumps({"sweep": {"preset": "default"}, **REFERENCE, **values})


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
    environment, entry = compare(reference, other)
    assert (environment.entry, environment.fails) == ("environment", False)
    assert (entry.kind, entry.fails) == (("tolerated", False) if passes else ("changed", True))
    of_entry = "1 tolerated" if passes else "1 changed"
    told = verdict(reference, other, [environment, entry])
    assert told == f"1 entries, {of_entry}, environment tolerated"


def test_a_tolerance_holds_on_a_physical_gpu_of_the_same_environment():
    physical = {"torch": "2.14.1", "is_virtual": False}
    for tolerance in ({"tolerance": "10%"}, {"tolerances": {"a": "1B"}}):
        reference = {"environment": physical, "metrics": {"a": {"peak_requested_bytes": 10}}, **tolerance}
        grown = {"environment": physical, "metrics": {"a": {"peak_requested_bytes": 11}}}
        assert [found.kind for found in compare(reference, grown)] == ["tolerated"]
        grown["metrics"] = {"a": {"peak_requested_bytes": 12}}
        assert [found.kind for found in compare(reference, grown)] == ["changed"]


@pytest.mark.parametrize(
    ("reserved", "least", "hint"),
    [
        (30, 20, "reserved grew by 10,485,760 bytes more than allocated: gaps that no block fits"),
        (20, 22, "the recorded steps need the same: a later step or the smaller batch"),
        (20, 18, None),
    ],
)
def test_what_the_parts_of_the_peak_cannot_explain_is_hinted_at(reserved: int, least: int, hint: str | None):
    def entry(reserved: int, least: int) -> dict:
        sizes = {"peak_requested_bytes": 10, "peak_allocated_bytes": 10, "peak_reserved_bytes": reserved}
        sizes |= {"peak_activation_bytes": 5, "parameter_bytes": 1, "least_budget_bytes": least}
        return {"environment": {}, "metrics": {"a": {name: size << 20 for name, size in sizes.items()}}}

    (difference,) = compare(entry(20, 20), entry(reserved, least))
    hints = [detail for detail in difference.details if " was " not in detail]
    assert [found[: len(hint or "")] for found in hints] == ([hint] if hint else [])


def test_a_tolerance_of_one_entry_is_for_it_alone():
    reference = {**REFERENCE, "tolerances": {"a": "1MiB"}}
    physical = {"torch": "2.14.1", "is_virtual": False}
    metrics = {"a": {"peak_requested_bytes": 11, "least_budget_bytes": None}, "b": {"peak_requested_bytes": 6}}
    found = compare(reference, measured(environment=physical, metrics=metrics))
    assert [(each.entry, each.kind) for each in found] == [
        ("environment", "changed"),
        ("a", "tolerated"),
        ("b", "changed"),
    ]


def test_a_tolerance_does_not_blur_what_can_be_exact():
    reference = {**REFERENCE, "tolerance": "50%"}
    metrics = {**REFERENCE["metrics"], "b": {"peak_requested_bytes": 6}}
    (found,) = compare(reference, measured(metrics=metrics))
    assert (found.entry, found.kind) == ("b", "changed")
    told = verdict(reference, measured(metrics=metrics), [found])
    assert told == (
        "2 entries, 1 changed, no tolerance applies where numbers can be exact: same environment, virtual GPU"
    )


def in_settings(*settings: str, size: int = 5) -> dict:
    return {"metrics": {f"fedavg/full model of {setting}": {"peak_requested_bytes": size} for setting in settings}}


def test_the_same_task_in_another_setting_is_changed_and_no_tolerance_lets_it_pass():
    reference = measured(**in_settings("net width 2, batch 32", "net width 3, batch 32"))
    now = measured(**in_settings("net width 2, batch 16", "net width 3, batch 16", size=4))
    found = compare({**reference, "tolerance": "99%", "environment": {"torch": "another"}}, now)
    found = [difference for difference in found if difference.entry != ENVIRONMENT]
    assert [(one.entry, one.kind, one.details) for one in found] == [
        (
            f"fedavg/full model of net width {width}, batch 16",
            "changed",
            ("the setting was batch 32, is batch 16", "peak_requested_bytes was 5, is 4 (-1)"),
        )
        for width in (2, 3)
    ]


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (["net, batch 1"], ["net, batch 2", "net, batch 3"], ["added", "added", "missing"]),  # which of both?
        (["net, batch 1", "net, batch 2"], ["net, batch 3"], ["added", "missing", "missing"]),
        (["net, batch 1"], ["net, batch 1", "net, batch 2"], ["added"]),
        (["net, batch 1"], [], ["missing"]),
        (["net width 1, batch 1"], ["other width 2, batch 2"], ["changed"]),
    ],
)
def test_what_may_be_the_same_task_as_several_is_added_and_missing(before: list, after: list, kinds: list):
    now = in_settings(*after) if after else {"metrics": {}}
    found = compare(measured(**in_settings(*before)), measured(**now))
    assert sorted(difference.kind for difference in found) == kinds


def test_tolerances_of_entries_that_are_gone_go_too(tmp_path: Path):
    write_reference(tmp_path / "a.json", DEFAULT, REFERENCE, {"tolerance": "1%", "tolerances": {"a": "2%", "z": "3%"}})
    _, reference = read_reference(tmp_path / "a.json")
    assert (reference["tolerance"], reference["tolerances"]) == ("1%", {"a": "2%"})


def test_junit_has_a_case_per_entry_and_a_failure_per_difference(tmp_path: Path):
    differences = differing(peak_requested_bytes=6)
    checked = {"one.json": (REFERENCE["metrics"], differences), "two.json": (["a"], [])}
    write_junit(tmp_path / "ci" / "memory.xml", checked)
    one, two = ElementTree.parse(tmp_path / "ci" / "memory.xml").getroot()
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in (one, two)] == [
        ("one.json", "2", "1"),
        ("two.json", "1", "0"),
    ]
    assert [case.get("name") for case in one.iter("testcase")] == ["a", "b"]
    assert {case.get("classname") for case in two.iter("testcase")} == {"memory.two"}
    assert [failure.text for failure in one.iter("failure")] == [str(differences[0])]


def test_saved_and_transient_activations_of_a_module_count_together():
    parts = tuple(Portion("forward", "activations", "conv1", saved, size) for saved, size in ((True, 3), (False, 4)))
    assert _portions(replace(MEASURED, attribution=parts)) == {"activations of conv1 in forward": 7}


def test_an_annotation_is_one_line():
    (difference,) = differing(peak_requested_bytes=6)
    assert github_annotation(Path("results/reference/default.json"), difference) == (
        "::error file=results/reference/default.json,title=memory changed::"
        "changed  b%0A         peak_requested_bytes was 5, is 6 (+1)"
    )


def test_a_command_measures_its_entry_alone():
    config = read_config(presets()["default"])
    cell = next(cell for cell in cells(config) if cell.method == "heterofl")
    assert _command(cell.as_measured, "subnetwork 1/2 scaled") == (
        "profl measure --method heterofl --task 'subnetwork 1/2 scaled' --model resnet18 --width 64 --batch-size 64 "
        "--dataset digits --gpu virtual:jetson-orin"
    )


@pytest.mark.parametrize("kept", [{}, {"tolerance": "2%"}])
def test_what_is_written_is_read(tmp_path: Path, kept: dict):
    write_reference(tmp_path / "new" / "a.json", DEFAULT, REFERENCE, kept)
    sweep, reference = read_reference(tmp_path / "new" / "a.json")
    assert sweep == DEFAULT
    assert {name: reference[name] for name in REFERENCE} == REFERENCE
    assert reference.get("tolerance") == kept.get("tolerance")


def test_a_folder_without_references_is_an_error_as_nothing_would_be_compared(tmp_path: Path):
    with pytest.raises(InputError, match=f"no reference file in {tmp_path}: name the folder"):
        reference_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", r"a\.json: .*cannot be \[\]"),
        ("null", r"a\.json: .*cannot be None"),
        ("{", "not readable JSON"),
        ("{}", "sweep, environment, metrics are missing"),
        (altered(sweep={}), "either a preset or a config"),
        (altered(sweep={"present": "default"}), "present"),
        (altered(sweep=[]), r"sweep cannot be \[\]"),
        (altered(metrics=[]), r"metrics cannot be \[\]"),
        (altered(metrics={}), "metrics has no entry, so that nothing would be compared"),
        (altered(metrics={"a": None}), "metrics.a cannot be None"),
        (altered(metrics={"a": {}}), "metrics of 'a' has no peak_requested_bytes"),
        (altered(metrics={"a": {"peak_requested_bytes": "1"}}), "metrics.a.peak_requested_bytes cannot be '1'"),
        (altered(environment=None), "environment cannot be None"),
        (altered(portions=[1]), r"portions cannot be \[1\]"),
        (altered(portions={"a": {"conv": "big"}}), "portions.a.conv cannot be 'big'"),
        (altered(commands={"a": 1}), "commands.a cannot be 1"),
        (altered(tolerance=2), "tolerance cannot be 2"),
        (altered(tolerance="a bit"), "tolerance 'a bit' is neither a share such as 2% nor an amount"),
        (altered(tolerances="2%"), "tolerances cannot be '2%'"),
        (altered(tolerances={"z": "2%"}), "tolerances has 'z', which is no entry of metrics"),
        (altered(tolerances={"a": "2"}), "tolerance '2' is neither"),
        (
            altered(tolerence="2%"),
            r"unknown key 'tolerence': did you mean 'tolerance'\? Choose one of sweep, environment",
        ),
    ],
)
def test_a_damaged_reference_is_an_error(tmp_path: Path, text: str, told: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=told):
        read_reference(tmp_path / "a.json")
    refused = CliRunner().invoke(main, ["check", "--reference", str(tmp_path)])
    assert refused.exit_code == 1
    assert refused.output.count("\n") == 1


def test_a_reference_finds_its_sweep(tmp_path: Path):
    assert DEFAULT.read(tmp_path) == read_config(presets()["default"])
    on_h100 = replace(DEFAULT, gpu="virtual:h100")
    assert on_h100.read(tmp_path) == replace(read_config(presets()["default"]), gpu="virtual:h100")
    assert (DEFAULT.file_name, on_h100.file_name) == ("default.json", "default-h100.json")
    own = tmp_path / "studies" / "mine.toml"
    own.parent.mkdir()
    own.write_text(presets()["smoke"].read_text())
    sweep = Sweep.of(tmp_path / "reference", None, own, None)
    assert (sweep.config, sweep.file_name) == ("../studies/mine.toml", "mine.json")
    (tmp_path / "reference").mkdir()
    assert sweep.read(tmp_path / "reference") == read_config(presets()["smoke"])
    with pytest.raises(InputError, match="unknown preset 'defalt'"):
        Sweep(preset="defalt").read(tmp_path)


STUDY = """
gpu = 'virtual:sm_90'
grid = {method = ['exclusive'], model = ['resnet18'], width = [2], dataset = ['digits'], tier = ['100%'], seed = [0]}
"""


@pytest.mark.usefixtures("commands_are_warm")
def test_a_study_of_ones_own_is_guarded_beside_others(tmp_path: Path):
    study, folder = tmp_path / "mine.toml", tmp_path / "reference"
    study.write_text(STUDY)

    def check(*words: str):
        return CliRunner().invoke(main, ["check", "--reference", str(folder), *words])

    for gpu in ([], ["--gpu", "virtual:t4"]):
        assert check("--update", "--config", str(study), *gpu).exit_code == 0
    assert [path.name for path in reference_files(folder)] == ["mine-t4.json", "mine.json"]
    passed = check()
    assert (passed.exit_code, passed.output.count("1 entries, all equal")) == (0, 2)
    # Another width: both files no longer hold what the sweep measures.
    study.write_text(STUDY.replace("[2]", "[3]"))
    failed = check("--junit", str(tmp_path / "memory.xml"))
    assert failed.exit_code == 3
    for name in ("mine.json", "mine-t4.json"):
        assert f"{name}: changed  exclusive/full model of resnet18 width 3" in failed.output
        assert "the setting was resnet18 width 2, is resnet18 width 3" in failed.output
    assert len(list(ElementTree.parse(tmp_path / "memory.xml").iter("failure"))) == 2


def test_one_name_for_two_sweeps_is_refused(tmp_path: Path):
    write_reference(tmp_path / "smoke.json", Sweep(preset="smoke"), REFERENCE)
    before = (tmp_path / "smoke.json").read_bytes()
    (tmp_path / "smoke.toml").write_text(STUDY)
    words = ["check", "--update", "--reference", str(tmp_path), "--config", str(tmp_path / "smoke.toml")]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert "smoke.json is the reference of preset smoke, not of smoke.toml: rename the TOML file" in refused.output
    assert (tmp_path / "smoke.json").read_bytes() == before


@pytest.mark.parametrize(
    "words", ["--preset default", "--gpu virtual:t4", "--update --gpu virtual:t4", "--update --preset smoke --config b"]
)
def test_options_that_say_what_to_update_belong_to_an_update(words: str):
    refused = CliRunner().invoke(main, ["check", *words.split()])
    assert refused.exit_code == 2
    assert "--update takes one of" in refused.output
