"""A sweep: its configuration, resuming, failures, and that the number of workers changes nothing."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import profl.bench.sweep as sweeping
from profl.bench.cell import Cell
from profl.bench.config import Config, Grid, cells, override, read_config
from profl.bench.errors import InputError
from profl.bench.fleet import UNLIMITED
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.process.probe import Prober
from profl.bench.presets import presets
from profl.bench.results import CellFolder
from profl.bench.sweep import Outcome, folder_of, run_sweep
from tests.conftest import SMALL_RECIPE, small_cell

GRID = {
    "method": ["fedavg", "exclusive", "heterofl"],
    "model": ["resnet18"],
    "width": [2],
    "dataset": ["digits"],
    "tier": ["50%", "100%"],
    "seed": [0],
}
CONFIG = Config(Grid(**GRID), "virtual:jetson-orin", recipe=replace(SMALL_RECIPE, rounds=2))


FILE = """
gpu = 'cuda'
grid = {method = ['profl'], model = ['resnet18'], width = [2], dataset = ['digits'], tier = ['1MB'], seed = [0]}
"""


class Silent:
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.rounds: list[tuple[str, int]] = []
        self.errors: dict[str, str | None] = {}
        self.accuracies: dict[str, float] = {}
        self.taken: list[str] = []

    def measured(self, cell: Cell) -> None: ...

    def round(self, cell: Cell, row: dict) -> None:
        self.rounds.append((cell.folder_name, row["round"]))

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        if outcome.taken:
            self.taken.append(cell.folder_name)
            return
        self.errors[cell.folder_name] = outcome.error
        self.accuracies[cell.folder_name] = outcome.summary and outcome.summary["final_accuracy"]


def bits(todo: list[Cell], output: Path) -> dict[str, list[dict]]:
    return {
        cell.folder_name: [
            {name: value for name, value in row.items() if name not in ("seconds", "attempt")}
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
    ],
)
def test_bad_names_are_refused_before_any_work(axis: str, value: str):
    with pytest.raises(InputError, match=value):
        cells(replace(CONFIG, grid=Grid(**{**GRID, "method": ["heterofl"], axis: [value]})))


def test_options_of_a_method_that_is_not_run_are_checked_too():
    with pytest.raises(InputError, match="options of method 'profl': pace cannot be"):
        cells(replace(CONFIG, options={"profl": {"pace": [1]}}))


def test_a_cell_that_another_sweep_measures_is_left_to_it(tmp_path: Path, prober: Prober):
    cell, listener = small_cell(recipe=CONFIG.recipe), Silent()
    folder_of(cell, tmp_path).path.mkdir(parents=True)
    with FileLock(folder_of(cell, tmp_path).path / "cell.lock"):
        run_sweep([cell], tmp_path, 1, prober, listener)
    assert listener.taken == [cell.folder_name]
    assert listener.errors == {}
    assert not (folder_of(cell, tmp_path).path / "cell.json").exists()


def test_unknown_options_are_refused():
    with pytest.raises(InputError, match="unknown option of method 'heterofl' 'speed'"):
        cells(replace(CONFIG, options={"heterofl": {"speed": 1}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu = ", "is not TOML"),
        ("gpu = 'cuda'", r"study\.toml: grid is missing"),
        ("gpu = 'cuda'\ngrid = {method = ['profl']}", "grid.model, .*, grid.tier, grid.seed are missing"),
        (FILE + "colour = 1", "unknown key 'colour': choose one of grid, gpu, data"),
        (FILE.replace("{m", "{shape = [1], m"), "unknown key 'grid.shape': choose one of method, model, width"),
        (FILE.replace("tier", "teir"), r"unknown key 'grid.teir': did you mean 'tier'\? Choose one of method, model"),
        (FILE + "recipe = {epochs = 1}", "unknown key 'recipe.epochs'"),
        (FILE.replace("method = ['profl']", "method = []"), "grid.method cannot be"),
        (FILE.replace("method = ['profl']", "method = 'profl'"), "grid.method cannot be 'profl'"),
        (FILE.replace("width = [2]", "width = [2.0]"), r"grid.width.0 cannot be 2\.0"),
        (FILE + "recipe = []", "recipe cannot be"),
        (FILE + "recipe = {learning_rate = inf}", "recipe.learning_rate cannot be inf"),
        (FILE + "options = 5", "options cannot be 5"),
        (FILE + "options = {exclusive = 5}", "options.exclusive cannot be 5"),
        ("grid = 5", "grid cannot be 5"),
        (FILE.replace("seed = [0]", "seed = [99999999999999999999]"), "grid.seed.0 cannot be 99999999999999999999"),
        (FILE.replace("width = [2]", "width = [1000000]"), "grid.width.0 cannot be 1000000"),
        (FILE + "recipe = {devices = 100000000}", "recipe.devices cannot be 100000000"),
        (FILE + "recipe = {learning_rate = 1e308}", r"recipe.learning_rate cannot be 1e\+308"),
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
    assert changed.grid.tier == ["75%"]
    assert changed.grid.seed == [0]
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
    good, bad = small_cell(recipe=CONFIG.recipe), small_cell(seed=1, recipe=CONFIG.recipe)
    folder_of(bad, tmp_path).path.mkdir(parents=True)
    (folder_of(bad, tmp_path).path / "checkpoint.pt").write_text("not a checkpoint")
    listener = Silent()
    run_sweep([bad, good], tmp_path, 1, prober, listener)
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
    ],
)
def test_data_that_cannot_be_dealt_is_refused_before_any_work(recipe: dict, message: str, tmp_path: Path):
    cell = small_cell(recipe=replace(CONFIG.recipe, **recipe))
    with pytest.raises(InputError, match=message), Prober() as idle:
        run_sweep([cell], tmp_path, 1, idle, Silent())
    assert not folder_of(cell, tmp_path).path.exists()


def test_a_gpu_that_cannot_be_had_fails_the_cell_with_one_line(tmp_path: Path, prober: Prober):
    cell = small_cell(gpu="virtual:abacus", recipe=CONFIG.recipe)
    listener = Silent()
    with pytest.raises(GpuUnavailable, match="abacus"):
        run_sweep([cell], tmp_path, 1, prober, listener)


def test_a_killed_worker_fails_its_cell_and_waiting_cells_run(tmp_path: Path, prober: Prober):
    long = small_cell(recipe=replace(SMALL_RECIPE, rounds=200))
    also_long = small_cell(seed=9, recipe=replace(SMALL_RECIPE, rounds=200))
    short = [also_long, *(small_cell("exclusive", "200%", seed=seed, recipe=CONFIG.recipe) for seed in range(3))]
    # One of those that wait has been run in part before: it has not failed either.
    folder_of(short[1], tmp_path).begin(short[1].to_dict(), {})
    (folder_of(short[1], tmp_path).path / "rounds.jsonl").touch()
    assert folder_of(short[1], tmp_path).status == "stopped"

    class Killer(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            super().round(cell, row)
            if cell == long and row["round"] == 3:
                for process in multiprocessing_children():
                    os.kill(process, signal.SIGKILL)

    listener = Killer()
    run_sweep([long, *short], tmp_path, 2, prober, listener)
    assert "killed" in str(listener.errors[long.folder_name])
    assert [listener.errors[cell.folder_name] for cell in short[1:]] == [None] * 3
    assert all(folder_of(cell, tmp_path).status == "done" for cell in short[1:])
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
    from profl.bench.results import read_json

    entries = read_json(run.path / "footprints.json")
    assert [entry["task"] for entry in entries] == [
        "subnetwork 1",
        *(f"subnetwork {rate} scaled" for rate in ("1/2", "1/4", "1/8", "1/16")),
    ]
    assert all(sum(entry["categories_at_peak"].values()) == entry["peak_requested_bytes"] for entry in entries)
