"""What a run leaves on disk survives kills and is read back as it was written."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from profl.bench.cell import Cell
from profl.bench.errors import InputError
from profl.bench.memory.footprint import Block, Environment, Footprint
from profl.bench.results import CELL_COLUMNS, ROUND_COLUMNS, CellFolder, check_one_recipe, read_run, write_json
from tests.conftest import small_cell

MEASURED = Footprint(
    key="fedavg/full model of resnet18",
    steps=3,
    peak_requested_bytes=7,
    peak_allocated_bytes=512,
    peak_reserved_bytes=2 << 20,
    least_budget_bytes=2 << 20,
    parameter_bytes=2,
    peak_activation_bytes=0,
    categories_at_peak={"parameters": 2, "optimizer state": 5},
    largest_blocks=(Block(5, "optimizer state"),),
    nvml_used_bytes=None,
    environment=Environment("virtual:h100", "virtual h100", True, 80 << 30, "2", "13", "9", "default"),
)
FOOTPRINT = {"task": "full model", "batch_size": 16, "gpu": "virtual:jetson-orin", **MEASURED.to_dict()}
CELL = small_cell()
SUMMARY: dict[str, float] = {
    name: 0.5 for name in CELL_COLUMNS if name not in {*CELL.to_dict(), "cell", "status", "rounds"}
}
SUMMARY |= {"uploaded_bytes": 0.0, "downloaded_bytes": 0.0}


def row(number: int, **more: object) -> dict:
    return {
        **dict.fromkeys(ROUND_COLUMNS, 0.0),
        "round": number,
        "phase": "train",
        "attempt": 1,
        "tasks": {},
        "test_accuracy": 0.5,
        **more,
    }


def altered(**values: object) -> str:
    """Return a footprints file with other values."""
    return json.dumps([{**FOOTPRINT, **values}])


@pytest.fixture
def folder(tmp_path: Path) -> CellFolder:
    folder = CellFolder(tmp_path / "cells" / CELL.folder_name)
    folder.begin(CELL.to_dict(), {"torch": "x"})
    folder.write_footprints([FOOTPRINT])
    return folder


def add(folder: CellFolder, number: int, **more: object) -> None:
    folder.append_round(row(number, **more), {"round": number, "method": {"value": torch.tensor(number)}})


def test_a_checkpoint_cut_short_leaves_the_one_before(folder: CellFolder, monkeypatch: pytest.MonkeyPatch):
    add(folder, 1)

    def save_half(checkpoint: dict, path: Path) -> None:
        Path(path).write_bytes(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(torch, "save", save_half)
        with pytest.raises(OSError, match="No space left"):
            add(folder, 2)
    checkpoint = folder.resume()
    assert checkpoint["round"] == checkpoint["method"]["value"] == 1
    assert [kept["round"] for kept in folder.rounds()] == [1]


def test_resumes_from_the_last_checkpoint(folder: CellFolder):
    add(folder, 1)
    add(folder, 2)
    checkpoint = folder.resume()
    assert checkpoint["round"] == 2
    assert checkpoint["method"]["value"] == 2
    assert [kept["round"] for kept in folder.rounds()] == [1, 2]


def test_a_fresh_cell_has_nothing_to_resume(folder: CellFolder):
    assert folder.resume() is None
    assert folder.rounds() == []


def test_a_row_whose_checkpoint_was_never_written_is_dropped(folder: CellFolder):
    add(folder, 1)
    with open(folder.path / "rounds.jsonl", "a") as rows:
        rows.write(json.dumps(row(2)) + "\n" + '{"round": 3, "trai')
    assert folder.resume()["round"] == 1
    assert [kept["round"] for kept in folder.rounds()] == [1]


def test_unknown_numbers_are_null_on_disk(folder: CellFolder):
    add(folder, 1, train_loss=math.nan)
    assert json.loads((folder.path / "rounds.jsonl").read_text())["train_loss"] is None
    assert folder.rounds()[0]["train_loss"] is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "checkpoint.pt").write_bytes(b"no"), "checkpoint.pt is damaged"),
        (lambda path: (path / "rounds.jsonl").write_text("{]\n"), "line 1 is not JSON"),
        (lambda path: (path / "rounds.jsonl").write_text(""), "lacks rows"),
    ],
)
def test_damage_is_named_and_nothing_is_deleted(folder: CellFolder, damage, message: str):
    add(folder, 1)
    damage(folder.path)
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with pytest.raises(InputError, match=message):
        folder.resume()
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cell.json", "{", r"cell\.json is not readable JSON"),
        ("cell.json", "[]", r"cell\.json: "),
        ("cell.json", '{"method": 5}', r"cell\.json: method cannot be 5"),
        ("environment.json", "[]", r"environment\.json: "),
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
    folder.check()
    (folder.path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_run(folder.path.parents[1])
    assert "\n" not in str(error.value)


def test_a_finished_cell_lacks_no_rounds(folder: CellFolder):
    add(folder, 1)
    folder.finish(SUMMARY)
    with pytest.raises(InputError, match="holds 1 rounds of 10"):
        folder.check()


def test_a_lost_summary_does_not_start_the_training_again(folder: CellFolder):
    for number in range(1, 11):
        add(folder, number)
    folder.finish(SUMMARY)
    (folder.path / "summary.json").unlink()
    with pytest.raises(InputError, match=r"neither summary\.json nor checkpoint\.pt"):
        folder.check()


@pytest.mark.parametrize("name", ["final_accuracy", "uploaded_bytes", "downloaded_bytes"])
def test_a_summary_of_another_cell_is_noticed(folder: CellFolder, name: str):
    for number in range(1, 11):
        add(folder, number)
    folder.finish({**SUMMARY, name: 0.25})
    with pytest.raises(InputError, match=rf"summary\.json has {name} 0\.25, its rounds"):
        folder.check()


def test_files_of_another_cell_are_noticed(folder: CellFolder):
    write_json(folder.path / "cell.json", small_cell("exclusive", "50%").to_dict())
    with pytest.raises(InputError, match=r"cell\.json is that of exclusive-resnet18w2-digits-50-seed0-"):
        folder.check()


def test_files_without_their_cell_are_noticed(folder: CellFolder):
    (folder.path / "cell.json").unlink()
    with pytest.raises(InputError, match=r"cell\.json is missing"):
        folder.check()


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


def test_a_folder_of_another_cell_is_refused(folder: CellFolder):
    with pytest.raises(InputError, match="holds another cell"):
        folder.begin(small_cell("exclusive").to_dict(), {})


def test_status_follows_what_is_on_disk(folder: CellFolder):
    assert folder.status == "waiting"
    add(folder, 1)
    assert folder.status == "stopped"
    folder.fail("Traceback")
    assert folder.status == "failed"
    folder.begin(CELL.to_dict(), {})
    folder.write_footprints([FOOTPRINT])
    assert folder.status == "stopped"
    with folder.attempt():
        assert folder.attempted
    assert not folder.attempted
    folder.finish(SUMMARY)
    assert folder.status == "done"
    assert not (folder.path / "checkpoint.pt").exists()


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


def test_a_cell_runs_while_its_lock_is_held(folder: CellFolder):
    lock = FileLock(folder.path / "cell.lock")
    with lock:
        assert folder.status == "running"
    (folder.path / "cell.lock").touch()
    assert folder.status == "waiting"
    with folder.attempt():
        assert folder.status == "stopped"  # as after a kill: the mark is there, the lock is free
    add(folder, 1)
    with lock:
        assert folder.status == "running"
    assert folder.status == "stopped"
    with lock.acquire(blocking=False):  # looking leaves the lock free
        folder.finish(SUMMARY)
        assert folder.status == "done"


def test_every_file_is_read_once(folder: CellFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    add(folder, 1)
    folder.write_timelines({})
    read: list[str] = []
    whole = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: read.append(path.name) or whole(path, **how))
    (record,) = read_run(tmp_path).records
    assert sorted(read) == ["cell.json", "environment.json", "footprints.json", "rounds.jsonl", "timelines.json"]
    assert (record.name, record.status, record.cell) == (CELL.folder_name, "stopped", CELL)
    assert (record.footprints, record.environment, record.error) == (
        json.loads(json.dumps([FOOTPRINT])),
        {"torch": "x"},
        "",
    )


def test_a_record_ends_with_the_last_line_of_a_failure(folder: CellFolder, tmp_path: Path):
    folder.fail("Traceback\n  here\nValueError: no\n\n")
    (record,) = read_run(tmp_path).records
    assert record.error == "ValueError: no"


def test_a_footprint_of_several_cells_appears_once(folder: CellFolder, tmp_path: Path):
    other = small_cell(seed=1)
    CellFolder(tmp_path / "cells" / other.folder_name).begin(other.to_dict(), {})
    CellFolder(tmp_path / "cells" / other.folder_name).write_footprints([FOOTPRINT])
    assert len(read_run(tmp_path).footprints) == 1


def test_a_folder_without_cells_is_no_run(tmp_path: Path):
    with pytest.raises(InputError, match="holds no results"):
        read_run(tmp_path)
