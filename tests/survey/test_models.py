"""The table of models: what it holds, that it is finished where it was left, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from profl.bench.cli.survey import survey
from profl.bench.errors import InputError
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.process.probe import Prober
from profl.bench.survey.classifier import Classifier, known_models
from profl.bench.survey.measuring import measured, missing
from profl.bench.survey.models import GPUS, MODELS, TABLE, Entry, entries, errors
from profl.bench.survey.table import PEAKS, SharedTable

SMALL = ("--model", "squeezenet1_1", "--gpu", "virtual:t4", "--batch-size", "2", "--image-size", "64")


def profl(*arguments: object) -> Result:
    return CliRunner().invoke(survey, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of one small model in two precisions, and what was printed."""
    path = tmp_path_factory.mktemp("survey") / "models.csv"
    result = profl("models", *SMALL, "--output", path)
    assert result.exit_code == 0, result.output
    path.with_suffix(".txt").write_text(result.output)
    return path


def test_the_default_covers_many_models_gpus_and_precisions():
    assert set(MODELS) <= known_models()
    assert len(MODELS) >= 20
    assert len(entries()) == len(MODELS) * len(GPUS) * 2


def test_every_entry_is_a_row_with_its_inputs_environment_and_bytes(table: Path):
    rows = pd.read_csv(table)
    assert list(rows.columns) == [*TABLE.columns, "checksum"]
    assert list(rows["precision"]) == ["float16", "float32"]
    assert (rows["image_size"] == 64).all()
    assert rows[list(TABLE.identity)].notna().all(axis=None)
    assert (rows["peak_requested_bytes"] <= rows["peak_allocated_bytes"]).all()
    assert (rows["peak_allocated_bytes"] <= rows["peak_reserved_bytes"]).all()
    assert (rows["parameter_bytes"] == 1_235_496 * 4).all()
    assert rows["failure"].isna().all()


def test_the_printed_table_ends_with_entries_failures_and_seconds(table: Path):
    printed = table.with_suffix(".txt").read_text()
    assert "virtual:t4, batch 2" in printed
    assert "2 entries, 0 failures, " in printed


def test_running_again_measures_nothing_and_changes_no_byte(table: Path):
    before = table.read_bytes()
    result = profl("models", *SMALL, "--output", table)
    assert result.exit_code == 0
    assert "2 measurements, 2 of them in" in result.output
    assert table.read_bytes() == before


def test_two_measurements_differ_in_nothing_but_seconds(table: Path, prober: Prober):
    for row in TABLE.read(table):
        entry = Entry(Classifier(row["model"], row["precision"], row["batch_size"], row["image_size"]), row["gpu"])
        again = TABLE.frame([measured(entry, TABLE, prober)]).drop(columns="seconds")
        pd.testing.assert_frame_equal(again, TABLE.frame([row]).drop(columns="seconds"))


def test_only_what_is_missing_or_failed_or_of_another_environment_is_measured(table: Path, tmp_path: Path):
    wanted = entries(["squeezenet1_1"], ["virtual:t4"], ["float16", "float32", "bfloat16"], 2, 64)
    assert missing(wanted, TABLE, table) == wanted[2:]
    half, single = TABLE.read(table)
    TABLE.write([half | {"torch": "1.0"}, single | {"failure": "worker died"}], tmp_path / "other.csv")
    assert missing(wanted[:2], TABLE, tmp_path / "other.csv") == wanted[:2]


def test_what_cannot_be_trained_is_a_row_with_the_reason(prober: Prober, tmp_path: Path):
    """A picture smaller than the network shrinks it."""
    entry = Entry(Classifier("alexnet", image_size=8), "virtual:t4")
    TABLE.write([measured(entry, TABLE, prober)], tmp_path / "models.csv")
    (row,) = TABLE.read(tmp_path / "models.csv")
    assert "alexnet" in row["failure"]
    assert "\n" not in row["failure"]
    assert all(row[name] is None for name in PEAKS)


def test_a_failure_is_printed_counted_and_ends_with_a_bad_status(tmp_path: Path):
    bad = ("--model", "alexnet", "--gpu", "virtual:t4", "--precision", "float32", "--image-size", "8")
    result = profl("models", *bad, "--output", tmp_path / "models.csv")
    assert result.exit_code == 4
    assert "1 entries, 1 failures, " in result.output
    assert "?" in result.output


def test_half_precision_saves_activations_once_they_outweigh_the_copies_of_the_weights(prober: Prober):
    half, single = (
        prober.measure(Classifier("squeezenet1_1", precision), "virtual:sm_90", least_budget=False)
        for precision in ("float16", "float32")
    )
    assert half.parameter_bytes == single.parameter_bytes
    assert half.peak_activation_bytes < 0.6 * single.peak_activation_bytes


def test_estimates_are_compared_with_measurements():
    usual = dict.fromkeys(TABLE.identity, "x") | {"batch_size": 8, "image_size": 224, "gpu": "virtual:t4"}
    sizes = {"peak_requested_bytes": 200, "peak_allocated_bytes": 400}
    estimated = {"gpu": "estimate:t4", "peak_requested_bytes": 190, "peak_allocated_bytes": None}
    lonely = usual | {"gpu": "estimate:h100", "peak_requested_bytes": 1}
    table = TABLE.frame([usual | sizes, usual | sizes | estimated, lonely])
    (row,) = errors(table).to_dict("records")
    assert row["gpu"] == "estimate:t4"
    assert row["peak_requested_bytes"] == pytest.approx(-0.05)
    assert pd.isna(row["peak_allocated_bytes"])


def test_without_estimates_nothing_is_compared():
    assert errors(TABLE.frame([])).empty


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--model", "resnet17"), "unknown model 'resnet17'"),
        (("--precision", "float8"), "unknown precision 'float8'"),
        (("--batch-size", "0"), "batch size 0"),
        (("--image-size", "0"), "image size 0"),
        (("--batch-size", str(10**20)), "batch size 100000000000000000000"),
    ],
)
def test_bad_input_is_named(arguments: tuple[str, ...], named: str, tmp_path: Path):
    with pytest.raises(InputError, match=named):
        profl("models", *arguments, "--output", tmp_path / "models.csv")
    assert not list(tmp_path.iterdir())


def test_an_unknown_gpu_is_named_before_anything_is_measured(tmp_path: Path):
    with pytest.raises(GpuUnavailable, match="virtual:t5"):
        profl("models", "--gpu", "virtual:h100", "--gpu", "virtual:t5", "--output", tmp_path / "models.csv")
    assert not list(tmp_path.iterdir())


def test_a_row_that_is_not_what_was_written_is_refused(table: Path, tmp_path: Path):
    """Whatever one row lost, got or changed, it is not taken for a measurement: cut off at any place, too."""
    header, one, other = table.read_text().splitlines()
    path = tmp_path / "models.csv"
    damaged = [other[:end] for end in range(1, len(other))]
    damaged += [other.replace(digit, str(9 - int(digit)), 1) for digit in sorted({*other} & {*"0123456789"})]
    damaged += [
        "",
        other + other,
        f"{one}\n{other}",
        other.replace("squeezenet1_1", "alexnet"),
        other.replace(",,", ",-1,", 1),
    ]
    for line in damaged:
        path.write_text(f"{header}\n{one}\n{line}\n")
        with pytest.raises(InputError, match=r"models\.csv, line [34] is damaged \(.*\): delete the line"):
            TABLE.read(path)


@pytest.mark.parametrize(("damage", "named"), [("nan", "line 3 is damaged"), ("-5", "line 3 is damaged")])
def test_a_table_of_an_earlier_version_is_read_and_its_rows_looked_at(
    table: Path, damage: str, named: str, tmp_path: Path
):
    path = tmp_path / "models.csv"
    rows = pd.read_csv(table, dtype=str).drop(columns="checksum")
    rows.to_csv(path, index=False)
    assert TABLE.read(path) == TABLE.read(table)
    TABLE.write(TABLE.read(path), path)
    assert path.read_bytes() == table.read_bytes()
    rows.loc[1, "peak_requested_bytes"] = damage
    rows.to_csv(path, index=False)
    with pytest.raises(InputError, match=named):
        TABLE.read(path)


def test_two_processes_may_add_to_one_table(table: Path, tmp_path: Path):
    """Neither loses what the other measures meanwhile."""
    path, (first, second) = tmp_path / "new" / "models.csv", TABLE.read(table)
    one, other = SharedTable(TABLE, path), SharedTable(TABLE, path)
    one.add()
    other.add(second)
    one.add(first)
    other.add(second | {"seconds": 1.5})
    assert TABLE.read(path) == [first, second | {"seconds": 1.5}]
    path.unlink()
    one.add(first)
    assert TABLE.read(path) == [first, second]


def test_what_was_measured_stays_where_measuring_more_fails(table: Path, tmp_path: Path):
    path, (first, second) = tmp_path / "models.csv", TABLE.read(table)
    TABLE.write([first | {"least_budget_bytes": None}], path)
    shared = SharedTable(TABLE, path)
    unknown = dict.fromkeys(PEAKS)
    shared.add(first | unknown | {"failure": "the worker died"}, second | unknown | {"failure": "the worker died"})
    assert TABLE.read(path) == [
        first | {"least_budget_bytes": None},
        second | unknown | {"failure": "the worker died"},
    ]
    shared.add(first, second)
    assert TABLE.read(path) == [first, second]


@pytest.mark.parametrize("name", ["model", "gpu", "batch_size", "torch"])
def test_a_row_that_does_not_say_what_it_is_of_is_refused(name: str, table: Path, tmp_path: Path):
    rows = pd.read_csv(table, dtype=str).drop(columns="checksum")
    rows.loc[0, name] = None
    rows.to_csv(tmp_path / "models.csv", index=False)
    with pytest.raises(InputError, match=r"line 2 is damaged .it does not say what was measured"):
        TABLE.read(tmp_path / "models.csv")


def test_a_link_to_a_table_stays_one(table: Path, tmp_path: Path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "models.csv")
    TABLE.write(TABLE.read(table), tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "models.csv").read_bytes() == table.read_bytes()


def test_where_nothing_can_be_written_nothing_is_measured(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "models.csv", Path("/proc/models.csv"), Path("/dev/full")):
        with pytest.raises((InputError, OSError)) as error:
            profl("models", *SMALL, "--output", path)
        told = getattr(error.value, "filename", None) or str(error.value)
        assert str(path) in told or str(path.parent) == told
        assert "partial" not in told


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "model\n" + "\x00" * 9])
def test_another_file_is_not_overwritten(content: str, tmp_path: Path):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"mine\.csv"):
        profl("models", *SMALL, "--output", path)
    assert path.read_text() == content
