"""What a run leaves on disk survives kills and is read back as it was written."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.errors import InputError
from bench.results import CELL_COLUMNS, ROUND_COLUMNS, CellFolder, read_run
from tests.conftest import small_cell

FOOTPRINT = {
    "task": "full model",
    "batch_size": 16,
    "gpu": "virtual:h100",
    "peak_requested_bytes": 7,
    "categories_at_peak": {"parameters": 2, "optimizer state": 5},
    "environment": {"torch": "x"},
}


def row(number: int, **more: object) -> dict:
    return {
        **dict.fromkeys(ROUND_COLUMNS, 0.0),
        "round": number,
        "tasks": {},
        "test_accuracy": 0.5,
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> CellFolder:
    folder = CellFolder(tmp_path / "cells" / "a")
    folder.begin(small_cell().to_dict(), {"torch": "x"})
    folder.write_footprints([FOOTPRINT])
    return folder


def add(folder: CellFolder, number: int, **more: object) -> None:
    folder.append_round(row(number, **more), {"round": number, "method": {"value": torch.tensor(number)}})


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


def test_check_finds_damage_beforehand(folder: CellFolder):
    folder.check()
    (folder.path / "cell.json").write_text("{")
    with pytest.raises(InputError, match=r"cell\.json is not readable JSON"):
        folder.check()


def test_a_folder_of_another_cell_is_refused(folder: CellFolder):
    with pytest.raises(InputError, match="holds another cell"):
        folder.begin(small_cell("exclusive").to_dict(), {})


def test_status_follows_what_is_on_disk(folder: CellFolder):
    assert folder.status == "waiting"
    add(folder, 1)
    assert folder.status == "running"
    folder.fail("Traceback")
    assert folder.status == "failed"
    folder.begin(small_cell().to_dict(), {})
    folder.write_footprints([FOOTPRINT])
    assert folder.status == "running"
    folder.finish({"final_accuracy": 0.5})
    assert folder.status == "done"
    assert not (folder.path / "checkpoint.pt").exists()


def test_reads_frames_with_the_stated_columns(folder: CellFolder, tmp_path: Path):
    add(folder, 1, train_loss=math.nan, test_accuracy=0.25)
    add(folder, 2)
    run = read_run(tmp_path)
    assert list(run.cells.columns) == list(CELL_COLUMNS)
    assert run.cells.loc[0, "status"] == "running"
    assert run.cells.loc[0, "rounds"] == 2
    assert pd.isna(run.cells.loc[0, "final_accuracy"])
    assert run.rounds["test_accuracy"].tolist() == [0.25, 0.5]
    assert pd.isna(run.rounds.loc[0, "train_loss"])
    assert run.footprints.loc[0, "optimizer_state_bytes"] == 5
    assert run.footprints.loc[0, "method"] == "fedavg"


def test_a_footprint_of_several_cells_appears_once(folder: CellFolder, tmp_path: Path):
    CellFolder(tmp_path / "cells" / "b").begin(small_cell(seed=1).to_dict(), {})
    CellFolder(tmp_path / "cells" / "b").write_footprints([FOOTPRINT])
    assert len(read_run(tmp_path).footprints) == 1


def test_a_folder_without_cells_is_no_run(tmp_path: Path):
    with pytest.raises(InputError, match="holds no results"):
        read_run(tmp_path)
