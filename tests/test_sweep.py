"""A sweep: its configuration, resuming, failures, and that the number of workers changes nothing."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bench.sweep as sweeping
from bench.cell import Cell
from bench.errors import InputError
from bench.fleet import UNLIMITED
from bench.memory.errors import GpuUnavailable, MeasurementFailed
from bench.memory.probe import Prober
from bench.results import CellFolder
from bench.sweep import Config, cells, folder_of, override, presets, read_config, run_sweep
from tests.conftest import SMALL_RECIPE, small_cell

GRID = {
    "method": ["fedavg", "exclusive", "heterofl"],
    "model": ["resnet18"],
    "width": [2],
    "dataset": ["digits"],
    "tier": ["50%", "100%"],
    "seed": [0],
}
CONFIG = Config(GRID, "virtual:jetson-orin", recipe=replace(SMALL_RECIPE, rounds=2))


class Silent:
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.rounds: list[tuple[str, int]] = []
        self.errors: dict[str, str | None] = {}

    def measured(self, cell: Cell) -> None: ...

    def round(self, cell: Cell, row: dict) -> None:
        self.rounds.append((cell.folder_name, row["round"]))

    def finished(self, cell: Cell, error: str | None) -> None:
        self.errors[cell.folder_name] = error


def bits(todo: list[Cell], output: Path) -> dict[str, list[dict]]:
    return {
        cell.folder_name: [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in folder_of(cell, output).rounds()
        ]
        for cell in todo
    }


def test_a_method_that_ignores_memory_gets_one_cell():
    todo = cells(CONFIG)
    assert [(cell.method, cell.tier) for cell in todo] == [
        ("fedavg", UNLIMITED),
        ("exclusive", "50%"),
        ("exclusive", "100%"),
        ("heterofl", "50%"),
        ("heterofl", "100%"),
    ]


@pytest.mark.parametrize(
    ("axis", "value"),
    [
        ("method", "fedprox"),
        ("model", "resnet999"),
        ("dataset", "mnist2"),
        ("tier", "lots"),
        ("tier", "0MB"),
        ("width", 0),
    ],
)
def test_bad_names_are_refused_before_any_work(axis: str, value: object):
    with pytest.raises(InputError, match=str(value)):
        cells(replace(CONFIG, grid={**GRID, "method": ["heterofl"], axis: [value]}))


def test_unknown_options_are_refused():
    with pytest.raises(InputError, match="unknown option of method 'heterofl' 'speed'"):
        cells(replace(CONFIG, options={"heterofl": {"speed": 1}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu = ", "is not TOML"),
        ("colour = 1", "unknown key .*colour"),
        ("gpu = 'cuda'\n[grid]\nshape = [1]", "unknown key .*shape"),
        ("gpu = 'cuda'\n[recipe]\nepochs = 1", "unknown key .*epochs"),
        ("gpu = 'cuda'\n[grid]\nmethod = []", "method needs a list"),
    ],
)
def test_a_bad_file_is_refused(text: str, message: str, tmp_path: Path):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_gives_cells(name: str):
    assert cells(read_config(presets()[name]))


def test_given_values_replace_those_of_the_file():
    changed = override(CONFIG, {"tier": ("75%",), "seed": ()}, gpu="virtual:t4", data=None, rounds=7, batch_size=None)
    assert changed.grid["tier"] == ["75%"]
    assert changed.grid["seed"] == [0]
    assert changed.gpu == "virtual:t4"
    assert changed.recipe.rounds == 7
    assert changed.recipe.batch_size == SMALL_RECIPE.batch_size


def test_one_worker_or_two_give_the_same_bits_and_a_second_run_repeats_nothing(tmp_path: Path, prober: Prober):
    todo = cells(CONFIG)
    for workers in (1, 2):
        listener = Silent()
        run_sweep(todo, tmp_path / str(workers), workers, prober, listener)
        assert set(listener.errors.values()) == {None}
        assert len(listener.rounds) == 2 * len(todo)
    assert bits(todo, tmp_path / "1") == bits(todo, tmp_path / "2")
    again = Silent()
    run_sweep(todo, tmp_path / "2", 2, prober, again)
    assert again.rounds == []
    assert again.errors == {}


def test_threads_are_set_and_given_back(tmp_path: Path, prober: Prober):
    class Watch(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            assert torch.get_num_threads() == 1

    torch.set_num_threads(2)
    try:
        run_sweep([small_cell(recipe=CONFIG.recipe)], tmp_path, 1, prober, Watch())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path: Path, prober: Prober):
    good = small_cell(recipe=CONFIG.recipe)
    bad = small_cell(recipe=replace(CONFIG.recipe, devices=5000))  # more devices than examples
    listener = Silent()
    run_sweep([bad, good], tmp_path, 1, prober, listener)
    assert listener.errors[good.folder_name] is None
    assert "5000" in listener.errors[bad.folder_name]
    assert folder_of(bad, tmp_path).status == "failed"
    assert "Traceback" in (folder_of(bad, tmp_path).path / "error.txt").read_text()


def test_a_gpu_that_cannot_be_had_fails_the_cell_with_one_line(tmp_path: Path, prober: Prober):
    cell = small_cell(gpu="virtual:abacus", recipe=CONFIG.recipe)
    listener = Silent()
    with pytest.raises(GpuUnavailable, match="abacus"):
        run_sweep([cell], tmp_path, 1, prober, listener)


def test_a_killed_worker_fails_its_cell_and_waiting_cells_run(tmp_path: Path, prober: Prober):
    long = small_cell(recipe=replace(SMALL_RECIPE, rounds=200))
    short = [small_cell("exclusive", "200%", seed=seed, recipe=CONFIG.recipe) for seed in range(2)]

    class Killer(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            super().round(cell, row)
            if cell == long and row["round"] == 3:
                for process in multiprocessing_children():
                    os.kill(process, signal.SIGKILL)

    listener = Killer()
    run_sweep([long, *short], tmp_path, 2, prober, listener)
    assert "killed" in listener.errors[long.folder_name]
    assert all(folder_of(cell, tmp_path).status in ("done", "failed") for cell in short)
    assert 3 <= len(folder_of(long, tmp_path).rounds()) < 200


def multiprocessing_children() -> list[int]:
    import multiprocessing

    return [process.pid for process in multiprocessing.active_children() if process.pid]


def test_interrupting_ends_the_workers_and_keeps_the_rounds(tmp_path: Path, prober: Prober):
    cell = small_cell(recipe=replace(SMALL_RECIPE, rounds=200))
    other = small_cell(seed=1, recipe=replace(SMALL_RECIPE, rounds=200))

    class Impatient(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            if row["round"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep([cell, other], tmp_path, 2, prober, Impatient())
    assert multiprocessing_children() == []
    folder = CellFolder(folder_of(cell, tmp_path).path)
    kept = len(folder.rounds())
    assert kept < 200
    assert (folder.resume() or {"round": 0})["round"] in (kept, kept - 1)


def test_footprints_are_written_for_every_task(tmp_path: Path, prober: Prober):
    cell = small_cell("heterofl", "50%", recipe=CONFIG.recipe)
    run_sweep([cell], tmp_path, 1, prober, Silent())
    run = sweeping.folder_of(cell, tmp_path)
    from bench.results import read_json

    entries = read_json(run.path / "footprints.json")
    assert [entry["task"] for entry in entries] == [
        "subnetwork 1",
        *(f"subnetwork {rate} scaled" for rate in ("1/2", "1/4", "1/8", "1/16")),
    ]
    assert all(sum(entry["categories_at_peak"].values()) == entry["peak_requested_bytes"] for entry in entries)


class Stubborn:
    """A prober for which nothing fits any limit."""

    def fits(self, workload: object, gpu: str, budget_bytes: int) -> bool:
        return False


def test_a_task_that_runs_out_of_memory_in_an_admitted_budget_is_an_error(prober: Prober):
    cell = small_cell("exclusive", "100%")
    measured = sweeping.measure(cell, prober)
    sweeping.confirm(cell, measured, prober)
    with pytest.raises(MeasurementFailed, match="but not in"):
        sweeping.confirm(cell, measured, Stubborn())


def test_tasks_that_no_device_is_given_are_not_confirmed(prober: Prober):
    cell = small_cell("exclusive", "99%")
    sweeping.confirm(cell, sweeping.measure(cell, prober), Stubborn())
