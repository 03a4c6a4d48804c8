"""A sweep: what is missing is measured and run, failures are told, and nothing begins that cannot end."""

from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from profl.bench.engine import InProcess
from profl.bench.errors import InputError
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.process.probe import Prober
from profl.bench.results.folder import folder_of
from profl.bench.results.json_files import read_json
from tests.conftest import small_cell
from tests.sweeps import CONFIG, Silent, sweep


def test_a_cell_that_another_sweep_measures_is_left_to_it(tmp_path: Path, prober: Prober):
    cell, listener = small_cell(recipe=CONFIG.recipe), Silent()
    folder_of(cell, tmp_path).path.mkdir(parents=True)
    with FileLock(folder_of(cell, tmp_path).path / "cell.lock"):
        sweep([cell], tmp_path, InProcess(), prober, listener)
    assert listener.taken == [cell.folder_name]
    assert listener.errors == {}
    assert not (folder_of(cell, tmp_path).path / "cell.json").exists()


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path: Path, prober: Prober):
    good, bad = small_cell(recipe=CONFIG.recipe), small_cell(seed=1, recipe=CONFIG.recipe)
    folder_of(bad, tmp_path).path.mkdir(parents=True)
    (folder_of(bad, tmp_path).path / "checkpoint.pt").write_text("not a checkpoint")
    listener = Silent()
    sweep([bad, good], tmp_path, InProcess(), prober, listener)
    assert listener.errors[good.folder_name] is None
    assert "checkpoint.pt is damaged" in str(listener.errors[bad.folder_name])
    assert folder_of(bad, tmp_path).status == "failed"
    assert "Traceback" in (folder_of(bad, tmp_path).path / "error.txt").read_text()
    assert listener.accuracies[good.folder_name] == folder_of(good, tmp_path).summary()["final_accuracy"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"devices": 5000}, "5000"),
        ({"partition": "shards:100"}, "shards:100"),
        ({"partition": "dirichlet:0.0001"}, "larger alpha"),
        ({"held_out_share": 0.9, "devices": 200}, "cannot give each of 200 clients"),
        ({"held_out_share": 0.001}, r"held_out_share = 0\.001 takes 0 of the"),
    ],
)
def test_data_that_cannot_be_dealt_is_refused_before_any_work(recipe: dict, message: str, tmp_path: Path):
    cell = small_cell(recipe=replace(CONFIG.recipe, **recipe))
    with pytest.raises(InputError, match=message), Prober() as idle:
        sweep([cell], tmp_path, InProcess(), idle, Silent())
    assert not folder_of(cell, tmp_path).path.exists()


def test_a_gpu_that_cannot_be_had_fails_the_cell_with_one_line(tmp_path: Path, prober: Prober):
    cell = small_cell(gpu="virtual:abacus", recipe=CONFIG.recipe)
    listener = Silent()
    with pytest.raises(GpuUnavailable, match="abacus"):
        sweep([cell], tmp_path, InProcess(), prober, listener)


def test_the_process_that_measures_imports_while_examples_are_dealt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []

    class Told:
        """A prober and an engine."""

        def start(self, gpu: str) -> None:
            told.append(gpu)

        def run(self, jobs: object, listener: object) -> None:
            told.append("run")

    monkeypatch.setattr("profl.bench.sweep.deal", lambda todo: told.append(f"{len(todo)} dealt"))
    two = [small_cell(seed=seed, gpu="virtual:t4", recipe=CONFIG.recipe) for seed in range(2)]
    sweep(two, tmp_path, Told(), Told(), Silent())
    sweep([], tmp_path, Told(), Told(), Silent())
    assert told == ["virtual:t4", "2 dealt", "run", "0 dealt", "run"]


def test_footprints_are_written_for_every_task(tmp_path: Path, prober: Prober):
    cell = small_cell("heterofl", "50%", recipe=CONFIG.recipe)
    sweep([cell], tmp_path, InProcess(), prober, Silent())
    run = folder_of(cell, tmp_path)
    entries = read_json(run.path / "footprints.json")
    assert [entry["task"] for entry in entries] == [
        "subnetwork 1",
        *(f"subnetwork {rate} scaled" for rate in ("1/2", "1/4", "1/8", "1/16")),
    ]
    assert all(sum(entry["categories_at_peak"].values()) == entry["peak_requested_bytes"] for entry in entries)
