"""A run is read back into frames as it was written, and damage is named before anything is done."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from profl.bench.cell import Cell
from profl.bench.errors import InputError
from profl.bench.results import CELL_COLUMNS, CellFolder, read_run
from profl.bench.results.record import read_record
from profl.bench.results.run import check_one_recipe
from profl.bench.results.schema import ADDED_LATER
from profl.bench.results.score import mean_of_last_tests
from tests.conftest import small_cell
from tests.results.conftest import CELL, FOOTPRINT, MEASURED, SUMMARY, add, altered, row


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cell.json", "{", r"cell\.json is not readable JSON"),
        ("cell.json", "[]", r"cell\.json: "),
        ("cell.json", '{"method": 5}', r"cell\.json: method cannot be 5"),
        ("environment.json", "[]", r"environment\.json: "),
        ("environment.json", '{"earlier": 5}', r"environment\.json: earlier cannot be 5"),
        ("environment.json", '{"earlier": [{"environment": {}}]}', r"last_round is missing"),
        ("footprints.json", "{}", r"footprints\.json: "),
        ("footprints.json", "[5]", r"footprints\.json: 0 cannot be 5"),
        ("footprints.json", '[{"task": "a"}]', r"footprints\.json: key, steps, .* and \d+ more are missing"),
        ("footprints.json", altered(least_budget_bytes="x"), r"footprints\.json: least_budget_bytes cannot be 'x'"),
        ("footprints.json", altered(peak_requested_bytes=8), r"footprints\.json:.*the categories sum to 7"),
        ("footprints.json", altered(key="exclusive/full model"), r"footprints\.json is not that of this cell"),
        ("footprints.json", json.dumps([MEASURED.to_dict()]), r"footprints\.json lacks a task"),
        ("footprints.json", "[]", "holds no footprint of full model"),
        ("environment.json", "[" * 100_000, r"environment\.json is not readable JSON"),
        ("rounds.jsonl", "5\n", r"rounds\.jsonl, line 1: "),
        ("rounds.jsonl", '{"round": 1}\n', r"rounds\.jsonl, line 1: phase, .* more are missing"),
        ("rounds.jsonl", json.dumps(row(1, tasks={}, test_accuracy=7.5)) + "\n", "test_accuracy cannot be 7.5"),
        ("rounds.jsonl", json.dumps(row(1, tasks={}, uploaded_bytes=-1)) + "\n", "uploaded_bytes cannot be -1"),
        ("rounds.jsonl", json.dumps(row(1, tasks={}, round=1.0)) + "\n", r"round cannot be 1\.0"),
        ("summary.json", "5", r"summary\.json: "),
        ("summary.json", '{"final_accuracy": "good"}', r"summary\.json: final_accuracy cannot be 'good'"),
    ],
)
def test_damage_is_found_beforehand_in_one_line(folder: CellFolder, name: str, text: str, message: str):
    for number in range(1, 11):
        add(folder, number, tasks={"full model": 3})
    folder.finish(SUMMARY)
    read_record(folder)
    (folder.path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_run(folder.path.parents[1])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (small_cell(seed=1, recipe=replace(CELL.recipe, rounds=11)), "rounds = 10 and 11"),
        (small_cell(seed=1, gpu="virtual:t4"), "gpu = 'virtual:jetson-orin' and 'virtual:t4'"),
        (small_cell(seed=1, options={"a": 1}), "options of fedavg"),
        (small_cell(seed=1, listed_budgets=[1]), "budgets of tier unlimited"),
    ],
)
def test_cells_of_two_recipes_are_not_averaged(other: Cell, message: str):
    with pytest.raises(InputError, match=message):
        check_one_recipe(Path("run"), [CELL, other])
    check_one_recipe(Path("run"), [CELL, small_cell("exclusive", "50%", seed=1, options={"a": 1})])


def test_reads_frames_with_the_stated_columns(folder: CellFolder, tmp_path: Path):
    add(folder, 1, train_loss=math.nan, test_accuracy=0.25)
    add(folder, 2)
    run = read_run(tmp_path)
    assert list(run.cells.columns) == list(CELL_COLUMNS)
    assert run.cells.loc[0, "status"] == "stopped"
    assert run.cells.loc[0, "rounds"] == 2
    assert pd.isna(run.cells.loc[0, "final_accuracy"])
    assert run.rounds["test_accuracy"].tolist() == [0.25, 0.5]
    assert pd.isna(run.rounds.loc[0, "train_loss"])
    assert run.footprints.loc[0, "at_peak_optimizer_state_bytes"] == 5
    assert run.footprints.loc[0, "method"] == "fedavg"


def test_the_score_of_an_earlier_version_comes_from_its_rounds(folder: CellFolder, tmp_path: Path):
    for number in range(1, 11):
        earlier = {name: value for name, value in row(number).items() if name not in ADDED_LATER}
        accuracy = number / 10 if number % 2 else None
        folder.append_round({**earlier, "test_accuracy": accuracy}, {"round": number})
    folder.finish({name: value for name, value in SUMMARY.items() if name not in ADDED_LATER} | {"final_accuracy": 0.9})
    run = read_run(tmp_path)
    assert run.cells.loc[0, "last_five_accuracy"] == pytest.approx(0.5)
    assert run.cells[["raw_final_accuracy", "operations"]].isna().all(axis=None)
    assert run.rounds[["tested", "gradient_norm", "operations"]].isna().all(axis=None)
    assert run.rounds["diagnostics"].tolist() == [{}] * 10


def test_the_score_is_the_mean_of_five_tests_or_of_fewer():
    assert mean_of_last_tests([9, 9, 1, 2, 3, 4, 5]) == 3
    assert mean_of_last_tests([1, 2]) == 1.5
    assert math.isnan(mean_of_last_tests([]))


def test_every_file_is_read_once(folder: CellFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    add(folder, 1)
    folder.write_timelines({})
    read: list[str] = []
    whole = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: read.append(path.name) or whole(path, **how))
    (record,) = read_run(tmp_path).records
    assert sorted(read) == ["cell.json", "environment.json", "footprints.json", "rounds.jsonl", "timelines.json"]
    assert (record.name, record.status, record.cell) == (CELL.folder_name, "stopped", CELL)
    assert (record.footprints, record.environments, record.error) == (
        json.loads(json.dumps([FOOTPRINT])),
        [{"torch": "x"}],
        "",
    )


def test_a_record_ends_with_the_last_line_of_a_failure(folder: CellFolder, tmp_path: Path):
    folder.fail("Traceback\n  here\nValueError: no\n\n")
    (record,) = read_run(tmp_path).records
    assert record.error == "ValueError: no"


def test_a_footprint_of_several_cells_appears_once(folder: CellFolder, tmp_path: Path):
    other = small_cell(seed=1)
    CellFolder(tmp_path / "cells" / other.folder_name).begin(other.to_dict())
    CellFolder(tmp_path / "cells" / other.folder_name).write_footprints([FOOTPRINT])
    assert len(read_run(tmp_path).footprints) == 1


def test_a_folder_without_cells_is_no_run(tmp_path: Path):
    with pytest.raises(InputError, match="holds no results: expected"):
        read_run(tmp_path)
    (tmp_path / "one" / "cells").mkdir(parents=True)
    (tmp_path / "two" / "cells").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"holds no results: choose one of {tmp_path}/one, {tmp_path}/two"):
        read_run(tmp_path)
