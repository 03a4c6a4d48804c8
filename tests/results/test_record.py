"""The files of a cell's folder must agree with each other, and be those of the cell."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from profl.bench.errors import InputError
from profl.bench.results import CellFolder
from profl.bench.results.json_files import as_json, write_json
from profl.bench.results.record import read_record
from tests.conftest import SMALL_RECIPE, small_cell
from tests.results.conftest import FOOTPRINT, SUMMARY, add, row


def test_a_finished_cell_lacks_no_rounds(folder: CellFolder):
    add(folder, 1)
    folder.finish(SUMMARY)
    with pytest.raises(InputError, match="holds 1 rounds of 10"):
        read_record(folder)


def test_a_lost_summary_does_not_start_the_training_again(folder: CellFolder):
    for number in range(1, 11):
        add(folder, number)
    folder.finish(SUMMARY)
    (folder.path / "summary.json").unlink()
    with pytest.raises(InputError, match=r"neither summary\.json nor checkpoint\.pt"):
        read_record(folder)


@pytest.mark.parametrize("name", ["final_accuracy", "last_five_accuracy", "uploaded_bytes", "downloaded_bytes"])
def test_a_summary_of_another_cell_is_noticed(folder: CellFolder, name: str):
    for number in range(1, 11):
        add(folder, number)
    folder.finish({**SUMMARY, name: 0.25})
    with pytest.raises(InputError, match=rf"summary\.json has {name} 0\.25, its rounds"):
        read_record(folder)


def test_files_of_another_cell_are_noticed(folder: CellFolder):
    write_json(folder.path / "cell.json", small_cell("exclusive", "50%").to_dict())
    with pytest.raises(InputError, match=r"cell\.json is that of exclusive-resnet18w2-digits-50-seed0-"):
        read_record(folder)


def test_a_folder_that_does_not_say_what_is_run_is_not_begun(folder: CellFolder):
    (folder.path / "cell.json").unlink()
    (folder.path / "cell.json.partial").touch()
    assert read_record(folder) is None


SHORT = small_cell(recipe=replace(SMALL_RECIPE, rounds=3))


def _life(folder: CellFolder) -> list[Callable[[], object]]:
    """Return what becomes of a cell's folder, change by change, from its first file to the last."""

    def append(number: int) -> None:
        with open(folder.path / "rounds.jsonl", "a") as rows:
            rows.write(as_json(row(number, tasks={"full model": 3})) + "\n")

    rounds = [
        change
        for number in range(1, 4)
        for change in (lambda n=number: append(n), lambda: (folder.path / "checkpoint.pt").touch())
    ]
    return [
        lambda: folder.begin(SHORT.to_dict()),
        lambda: folder.write_footprints([FOOTPRINT]),
        lambda: folder.write_timelines({}),
        lambda: folder.enter({"torch": "x"}, 0),
        *rounds,
        lambda: write_json(folder.path / "summary.json", SUMMARY),
        lambda: (folder.path / "checkpoint.pt").unlink(),
    ]


@pytest.mark.parametrize("before", range(12))
def test_whoever_reads_while_a_cell_goes_on_sees_no_damage(before: int, tmp_path: Path):
    """The cell is ``before`` changes old as somebody begins to read, and is over at one of the reader's looks."""
    looks = {name: getattr(Path, name) for name in ("exists", "read_text")}
    for moment in count(1):
        folder = CellFolder(tmp_path / str(moment) / SHORT.folder_name)
        changes = _life(folder)
        for change in changes[:before]:
            change()
        seen = 0

        def look(path: Path, name: str, *arguments: str, **how: str) -> object:
            nonlocal seen
            seen += 1
            if seen == moment:  # noqa: B023 - called within the loop
                for change in changes[before:]:  # noqa: B023
                    change()
            return looks[name](path, *arguments, **how)

        with pytest.MonkeyPatch.context() as patch:
            for name in looks:
                patch.setattr(Path, name, lambda path, *more, name=name, **how: look(path, name, *more, **how))
            record = read_record(folder)
        assert record is None or (record.status == "done") == bool(record.summary)
        if seen < moment:
            break
    assert moment > 1
