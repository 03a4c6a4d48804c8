"""Damage that can still be read is found: nothing is reported, or gone on from, that was not written."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from profl.bench.errors import InputError
from profl.bench.results import CellFolder
from profl.bench.results.record import read_record
from tests.conftest import small_cell, unchecked
from tests.results.conftest import CELL, FOOTPRINT, SUMMARY, add, row

FILES = ("environment.json", "footprints.json", "timelines.json", "rounds.jsonl", "summary.json")
TASKS = {"full model": {"moments": 3, "phases": [[0, "forward"]], "changes": {"parameters": [[1, 7]]}}}


def _outcome(read: Callable[[], Any]) -> Any:
    """Return what is read, or how it is refused."""
    try:
        return read()
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return str(error)


@pytest.fixture
def finished(folder: CellFolder) -> CellFolder:
    folder.write_footprints([FOOTPRINT, {**FOOTPRINT, "key": "fedavg/another", "task": "another"}])
    folder.write_timelines(TASKS)
    for number in range(1, 11):
        add(folder, number, tasks={"full model": 3})
    folder.finish(SUMMARY)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_changed_character_is_found_or_changes_nothing(finished: CellFolder, name: str):
    whole, path, draw = read_record(finished), finished.path / name, random.Random(name)
    text = path.read_text()
    places = [place for place, character in enumerate(text) if character.isalnum()]
    draws = draw.sample(places, min(40, len(places)))
    found = 0
    for place in draws:
        other = draw.choice([character for character in "07af" if character != text[place]])
        path.write_text(text[:place] + other + text[place + 1 :])
        outcome = _outcome(lambda: read_record(finished))
        assert outcome == whole or str(finished.path) in outcome
        found += outcome != whole
    assert found > len(draws) / 2


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_cell_is_found(finished: CellFolder, name: str, tmp_path: Path):
    other = small_cell(seed=1)
    moved = CellFolder(tmp_path / "other" / other.folder_name)
    shutil.copytree(finished.path, moved.path)
    (moved.path / "cell.json").unlink()
    moved.begin(other.to_dict())
    for kept in FILES:
        if kept != name:
            (moved.path / kept).unlink()
    if name != "summary.json":
        finished.finish(SUMMARY)
        (moved.path / "checkpoint.pt").touch()
    with pytest.raises(InputError, match=rf"{name}.* is damaged \(it does not agree with its checksum\): delete"):
        read_record(moved)


def test_a_footprint_that_is_gone_is_found(finished: CellFolder):
    path = finished.path / "footprints.json"
    text = path.read_text()
    path.write_text(text[: text.index("},\n {")] + "}\n]\n")
    with pytest.raises(InputError, match=r"footprints\.json is damaged"):
        read_record(finished)


def test_what_has_no_checksums_is_read_as_it_is(finished: CellFolder):
    whole = read_record(finished)
    for name in FILES:
        path = finished.path / name
        if name.endswith("l"):
            path.write_text("".join(json.dumps(unchecked(line)) + "\n" for line in path.read_text().splitlines()))
        else:
            path.write_text(json.dumps(unchecked(path.read_text())))
    assert read_record(finished) == whole


# checkpoints


def test_a_changed_byte_of_a_checkpoint_is_found_or_changes_nothing(folder: CellFolder):
    weights = torch.arange(64.0)
    add(folder, 1)
    folder.append_round(row(2), {"round": 2, "method": {"weights": weights, "seen": [1, "a"]}})
    path, draw = folder.path / "checkpoint.pt", random.Random(0)
    content = bytearray(path.read_bytes())
    found = 0
    for place in draw.sample(range(len(content)), 60):
        path.write_bytes(
            bytes(content[:place]) + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
        )
        state = _outcome(folder.resume)
        if isinstance(state, str):
            assert "checkpoint.pt" in state
            found += 1
        else:
            assert (state["round"], state["method"]["seen"]) == (2, [1, "a"])
            assert torch.equal(state["method"]["weights"], weights)
    assert found > 10


def _altered(folder: CellFolder, **values: object) -> None:
    path = folder.path / "checkpoint.pt"
    torch.save({**torch.load(path, weights_only=True), **values}, path)


def test_a_checkpoint_of_another_cell_or_with_other_weights_is_refused(folder: CellFolder, tmp_path: Path):
    add(folder, 1)
    saved = (folder.path / "checkpoint.pt").read_bytes()
    _altered(folder, method={"value": torch.tensor(torch.nan)})
    with pytest.raises(InputError, match="does not agree with its checksum"):
        folder.resume()
    other = small_cell(seed=1)
    moved = CellFolder(tmp_path / other.folder_name)
    moved.begin(other.to_dict())
    (moved.path / "checkpoint.pt").write_bytes(saved)
    with pytest.raises(InputError, match=f"checkpoint.pt is that of {CELL.folder_name}"):
        moved.resume()
    _altered(moved, cell=other.folder_name)
    with pytest.raises(InputError, match="does not agree with its checksum"):
        moved.resume()


def test_an_earlier_versions_checkpoint_is_taken_unless_it_holds_nan(folder: CellFolder):
    add(folder, 1)
    path = folder.path / "checkpoint.pt"
    for value, taken in ((1.5, True), (torch.nan, False), (torch.inf, False)):
        torch.save({"round": 1, "method": {"value": torch.tensor(value)}}, path)
        if taken:
            assert folder.resume()["method"]["value"] == value
        else:
            with pytest.raises(InputError, match="not finite, and no checksum"):
                folder.resume()


def test_a_training_that_diverged_goes_on(folder: CellFolder):
    folder.append_round(row(1, train_loss=torch.nan), {"round": 1, "method": {"value": torch.tensor(torch.nan)}})
    assert folder.resume()["method"]["value"].isnan()


@pytest.mark.parametrize("value", [{1, 2}, torch.Generator(), object(), CELL, torch.zeros(2, device="meta")])
def test_what_could_not_be_read_back_is_refused_as_it_is_written(folder: CellFolder, value: object):
    add(folder, 1)
    with pytest.raises(InputError, match=r"^method\.own\.1 of the checkpoint is of type \w+, which is not read back"):
        folder.append_round(row(2), {"round": 2, "method": {"own": [0, value]}})
    assert folder.resume()["round"] == 1


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(()), torch.zeros(0, 3), torch.ones(4, dtype=torch.bfloat16)[::2], torch.tensor([True]),
        torch.nn.Linear(2, 2).state_dict(), torch.nn.Parameter(torch.ones(1)), {1: (None, 2.5, True, b"a", "b")},
        torch.Size([1]), torch.float16, float("nan"),
    ],
)  # fmt: skip
def test_whatever_a_method_may_keep_comes_back(folder: CellFolder, value: object):
    folder.append_round(row(1), {"round": 1, "method": value})
    assert str(folder.resume()["method"]) == str(value)
