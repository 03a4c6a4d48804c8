"""What a cell leaves on disk survives kills, and its folder says how far it is."""

import json
import math
from typing import BinaryIO

import pytest
import torch
from filelock import FileLock

from profl.bench.errors import InputError
from profl.bench.results import CellFolder
from tests.conftest import small_cell
from tests.results.conftest import CELL, FOOTPRINT, SUMMARY, add, row


def test_a_checkpoint_cut_short_leaves_the_one_before(folder: CellFolder, monkeypatch: pytest.MonkeyPatch):
    add(folder, 1)

    def save_half(checkpoint: dict, file: BinaryIO) -> None:
        file.write(b"half a checkpoint")
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


def test_a_folder_of_another_cell_is_refused(folder: CellFolder):
    with pytest.raises(InputError, match="holds another cell"):
        folder.begin(small_cell("exclusive").to_dict())


def test_where_rounds_were_run_is_kept_however_often_a_cell_moves(folder: CellFolder):
    first, other, third = {"torch": "x"}, {"torch": "y"}, {"torch": "x", "cores": 2}
    assert folder.environments() == [first]
    folder.enter(other, 0)  # no round was run in the first
    assert folder.environments() == [other]
    folder.enter(other, 2)
    assert folder.environments() == [other]
    folder.enter(first, 3)
    folder.enter(third, 3)  # nor was one now
    folder.enter(third, 4)
    folder.enter(first, 5)
    assert folder.environments() == [other, third, first]
    kept = json.loads((folder.path / "environment.json").read_text())
    assert [entry["last_round"] for entry in kept["earlier"]] == [3, 5]


def test_status_follows_what_is_on_disk(folder: CellFolder):
    assert folder.status == "waiting"
    add(folder, 1)
    assert folder.status == "stopped"
    folder.fail("Traceback")
    assert folder.status == "failed"
    folder.begin(CELL.to_dict())
    folder.write_footprints([FOOTPRINT])
    assert folder.status == "stopped"
    with folder.attempt():
        assert folder.attempted
    assert not folder.attempted
    folder.finish(SUMMARY)
    assert folder.status == "done"
    assert not (folder.path / "checkpoint.pt").exists()


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
