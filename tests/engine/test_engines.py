"""The seam: a sweep hands what it has measured to an engine, and whichever runs it, the results are the same."""

import pickle
import sys
from collections.abc import Iterable
from functools import partial
from operator import length_hint
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from profl.bench.cell import Cell
from profl.bench.config import cells
from profl.bench.engine import Engine, InProcess, Job, Listener, LocalProcesses, Outcome, run_job
from profl.bench.experiment import Experiment
from profl.bench.measuring import measure_tasks
from profl.bench.memory.process.probe import Prober
from profl.bench.results.folder import folder_of
from profl.bench.results.json_files import read_json, write_json
from tests.conftest import small_cell
from tests.sweeps import CONFIG, Silent, bits, sweep


class Backwards:
    """An engine of one's own: each job travels as to another machine, the last one first."""

    def run(self, jobs: Iterable[Job | None], listener: Listener) -> None:
        for job in reversed([pickle.loads(pickle.dumps(job)) for job in jobs if job]):
            listener.finished(job.cell, run_job(job, partial(listener.round, job.cell)))


class Handed:
    """An engine that runs nothing and keeps what it was handed."""

    def __init__(self) -> None:
        self.jobs: list[list[Job]] = []

    def run(self, jobs: Iterable[Job | None], listener: Listener) -> None:
        self.jobs.append([job for job in jobs if job])


class Watching:
    """An engine that runs nothing, and looks on at every pause of a measurement; it stops at the first if it is to."""

    def __init__(self, stops: bool = False) -> None:
        self.stops = stops
        self.printed_to: list[object] = []
        self.jobs: list[Job] = []

    def run(self, jobs: Iterable[Job | None], listener: Listener) -> None:
        assert length_hint(jobs) == 1
        for job in jobs:
            if job:
                self.jobs.append(job)
                continue
            self.printed_to.append(sys.stdout)
            if self.stops:
                raise KeyboardInterrupt


class Orderly(Silent):
    """Insists on hearing of a cell's rounds in their order, and of all of them before it is finished."""

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        super().finished(cell, outcome)
        assert [number for name, number in self.rounds if name == cell.folder_name] == [1, 2]


def test_every_engine_gives_the_same_bits_and_a_second_run_repeats_nothing(tmp_path: Path, prober: Prober):
    todo = cells(CONFIG)
    engines: dict[str, Engine] = {"here": InProcess(), "two": LocalProcesses(2), "own": Backwards()}
    for name, engine in engines.items():
        listener = Orderly()
        sweep(todo, tmp_path / name, engine, prober, listener)
        assert set(listener.errors.values()) == {None}
        assert len(listener.rounds) == 2 * len(todo)
    assert bits(todo, tmp_path / "here") == bits(todo, tmp_path / "two") == bits(todo, tmp_path / "own")
    for engine in engines.values():
        again = Silent()
        sweep(todo, tmp_path / "two", engine, prober, again)
        assert again.rounds == []
        assert again.errors == {}


def test_an_engine_is_handed_all_that_is_measured_and_only_that(tmp_path: Path, prober: Prober):
    fine = [small_cell("heterofl", "50%", seed=seed, recipe=CONFIG.recipe) for seed in range(2)]
    taken, done = (small_cell(seed=seed, recipe=CONFIG.recipe) for seed in range(2))
    for cell in (taken, done):
        folder_of(cell, tmp_path).begin(cell.to_dict())
    write_json(folder_of(done, tmp_path).path / "summary.json", {})
    engine, listener = Handed(), Silent()
    with FileLock(folder_of(taken, tmp_path).path / "cell.lock"):
        sweep([done, fine[0], taken, fine[1]], tmp_path, engine, prober, listener)
    (jobs,) = engine.jobs
    assert [job.cell for job in jobs] == listener.measured_cells == fine
    assert listener.taken == [taken.folder_name]
    assert (listener.errors, listener.rounds) == ({}, [])  # what runs, and when, is the engine's business
    for job in jobs:
        assert job.path == folder_of(job.cell, tmp_path).path
        entries = read_json(job.path / "footprints.json")
        assert job.least_budgets == {entry["task"]: entry["least_budget_bytes"] for entry in entries}
        assert len(pickle.dumps(job)) < 10_000


def test_threads_are_set_and_given_back(tmp_path: Path, prober: Prober):
    class Watch(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            assert torch.get_num_threads() == 1

    torch.set_num_threads(2)
    try:
        sweep([small_cell(recipe=CONFIG.recipe)], tmp_path, InProcess(), prober, Watch())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_measurement_pauses_with_nothing_contained_and_one_that_is_left_in_a_pause_is_over(tmp_path: Path):
    """What a listener prints in a pause goes where it should; no answer of what was left is taken for another's."""
    cell = small_cell(width=3, recipe=CONFIG.recipe)
    leaving, watching = Watching(stops=True), Watching()
    with Prober() as prober:
        with pytest.raises(KeyboardInterrupt) as stopped:
            sweep([cell], tmp_path, leaving, prober, Silent())
        sweep([cell], tmp_path, watching, prober, Silent())  # its lock is free
        least_budgets = measure_tasks(Experiment.of(cell), prober).least_budgets
    assert stopped.value.__traceback__  # which would hold what was not closed
    assert leaving.jobs == []
    assert set(leaving.printed_to + watching.printed_to) == {sys.stdout}
    assert [job.cell for job in watching.jobs] == [cell]
    assert watching.jobs[0].least_budgets == least_budgets
