"""The files of a cell's folder must agree with each other, and be those of the cell."""

import pytest

from profl.bench.errors import InputError
from profl.bench.results import CellFolder
from profl.bench.results.json_files import write_json
from profl.bench.results.record import read_record
from tests.conftest import small_cell
from tests.results.conftest import SUMMARY, add


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
