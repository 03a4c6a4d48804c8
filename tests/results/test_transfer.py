"""A cell's folder on another machine: what comes back is what was written there, whenever a kill comes between."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from profl.bench.errors import InputError
from profl.bench.results import CellFolder
from profl.bench.results.transfer import Copy, bring_back, pack
from tests.results.conftest import SUMMARY, add


def contents(folder: CellFolder) -> dict[str, bytes]:
    """Return what a run of the cell writes: its own names and footprints stay here."""
    own = ("cell.json", "footprints.json", "cell.lock", "running")
    return {path.name: path.read_bytes() for path in folder.path.iterdir() if path.name not in own}


def carry(copy: Copy, folder: CellFolder) -> None:
    bring_back(pickle.loads(pickle.dumps(copy.changes())), folder)


def test_every_round_comes_back_and_so_does_the_end(folder: CellFolder, tmp_path: Path):
    add(folder, 1)
    copy = Copy(tmp_path / "there" / folder.path.name, pack(folder))
    there = CellFolder(copy.path)
    assert there.resume()["round"] == 1
    there.enter({"torch": "y"}, 1)
    for number in (2, 3):
        add(there, number)
        carry(copy, folder)
        assert contents(folder) == contents(there)
    assert [entry["torch"] for entry in folder.environments()] == ["x", "y"]
    there.finish(SUMMARY)
    carry(copy, folder)
    assert contents(folder) == contents(there)
    assert folder.status == "done"
    assert not (folder.path / "checkpoint.pt").exists()


def test_only_what_is_new_travels(folder: CellFolder, tmp_path: Path):
    for number in range(1, 30):
        add(folder, number)
    copy = Copy(tmp_path / "there" / folder.path.name, pack(folder))
    add(CellFolder(copy.path), 30)
    changes = copy.changes()
    (line,) = changes.rows.splitlines()
    assert json.loads(line)["round"] == 30
    assert set(changes.files) == {"checkpoint.pt"}
    again = copy.changes()
    assert (again.rows, again.files) == (b"", {})


def test_a_failure_comes_back(folder: CellFolder, tmp_path: Path):
    copy = Copy(tmp_path / "there" / folder.path.name, pack(folder))
    CellFolder(copy.path).fail("Traceback\nRuntimeError: no")
    carry(copy, folder)
    assert (folder.status, folder.failure()) == ("failed", "RuntimeError: no")


def test_a_kill_between_row_and_checkpoint_loses_that_round_alone(
    folder: CellFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    add(folder, 1)
    copy = Copy(tmp_path / "there" / folder.path.name, pack(folder))
    add(CellFolder(copy.path), 2)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as kill:
        kill.setattr("profl.bench.results.transfer.replacing", killed)
        with pytest.raises(KeyboardInterrupt):
            carry(copy, folder)
    assert len(folder.rounds()) == 2
    elsewhere = Copy(tmp_path / "elsewhere" / folder.path.name, pack(folder))
    assert [kept["round"] for kept in CellFolder(elsewhere.path).rounds()] == [1]  # with its checkpoint, that is
    assert elsewhere.changes().rows == b""


def test_what_is_damaged_does_not_travel(folder: CellFolder):
    add(folder, 1)
    (folder.path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="checkpoint"):
        pack(folder)
