"""Workers that are killed or interrupted leave every finished round, and the cells that waited are run."""

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from profl.bench.cell import Cell
from profl.bench.engine import Job, Listener, LocalProcesses, local_processes
from profl.bench.experiment import Experiment
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.process.probe import Prober
from profl.bench.results import CellFolder
from profl.bench.results.folder import folder_of
from tests.conftest import SMALL_RECIPE, small_cell
from tests.sweeps import CONFIG, Silent, sweep


def test_a_killed_worker_fails_its_cell_and_waiting_cells_run(tmp_path: Path, prober: Prober):
    long = small_cell(recipe=replace(SMALL_RECIPE, rounds=200))
    also_long = small_cell(seed=9, recipe=replace(SMALL_RECIPE, rounds=200))
    short = [also_long, *(small_cell("exclusive", "200%", seed=seed, recipe=CONFIG.recipe) for seed in range(3))]
    # One of those that wait has been run in part before: it has not failed either.
    folder_of(short[1], tmp_path).begin(short[1].to_dict())
    (folder_of(short[1], tmp_path).path / "rounds.jsonl").touch()
    assert folder_of(short[1], tmp_path).status == "stopped"

    class Killer(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            super().round(cell, row)
            if cell == long and row["round"] == 3:
                for process in multiprocessing_children():
                    os.kill(process, signal.SIGKILL)

    listener = Killer()
    sweep([long, *short], tmp_path, LocalProcesses(2), prober, listener)
    assert "killed" in str(listener.errors[long.folder_name])
    assert [listener.errors[cell.folder_name] for cell in short[1:]] == [None] * 3
    assert all(folder_of(cell, tmp_path).status == "done" for cell in short[1:])
    assert 3 <= len(folder_of(long, tmp_path).rounds()) < 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_the_pool_holds_no_lock(
    number: int, tmp_path: Path, prober: Prober, monkeypatch: pytest.MonkeyPatch
):
    """Raised inside of it, it would leave the lock held, and the pool would wait for it for ever."""
    monkeypatch.setattr(local_processes, "wait", interrupting := Interrupting(number))
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:  # as commands have it, also where a job in the background ignores one
        signal.signal(each, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            sweep([small_cell(recipe=SMALL_RECIPE)], tmp_path, LocalProcesses(1), prober, Silent())
        assert interrupting.went_on
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert multiprocessing_children() == []
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


class Interrupting:
    """Waits as the pool does, with a signal while a future is locked."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.went_on = False

    def __call__(self, futures: Collection[Future[Any]], **options: Any) -> Any:
        with next(iter(futures))._condition:
            signal.raise_signal(self.number)
            self.went_on = True
        return wait(futures, **options)


def test_no_more_workers_are_started_than_there_are_cells_and_none_sees_ctrl_c(tmp_path: Path, prober: Prober):
    class Interrupting(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.workers: set[int] = set()

        def measured(self, cell: Cell) -> None:
            self.interrupt()  # while they import

        def round(self, cell: Cell, row: dict) -> None:
            super().round(cell, row)
            self.interrupt()

        def interrupt(self) -> None:
            self.workers |= set(multiprocessing_children())
            for process in self.workers:
                os.kill(process, signal.SIGINT)

    listener = Interrupting()
    LocalProcesses(8).run([], listener)
    assert listener.workers == set()
    cell = small_cell("exclusive", "200%", recipe=CONFIG.recipe)
    sweep([cell], tmp_path, LocalProcesses(8), prober, listener)
    assert listener.errors == {cell.folder_name: None}
    assert len(listener.workers) == 1


def multiprocessing_children() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid]


def unmeasured_jobs(output: Path, rounds: int) -> list[Job]:
    """Return two jobs whose budgets are made up."""
    jobs = []
    for seed in range(2):
        cell = small_cell(seed=seed, recipe=replace(SMALL_RECIPE, rounds=rounds, evaluate_every=100))
        folder = folder_of(cell, output)
        folder.begin(cell.to_dict())
        jobs.append(Job(Experiment.of(cell), folder.path, {"full model": 1}, 1))
    return jobs


def until(happens: Callable[[], bool]) -> Iterator[None]:
    """Yield ten times a second until something has happened."""
    deadline = time.monotonic() + 300
    while not happens():
        assert time.monotonic() < deadline
        yield
        time.sleep(0.1)


def test_cells_run_to_their_end_while_the_next_are_measured(tmp_path: Path):
    """Nobody listens meanwhile, and the rounds told are more than a pipe holds."""
    first, second = jobs = unmeasured_jobs(tmp_path, rounds=100)

    def measured() -> Iterator[Job]:
        yield first
        for _ in until(lambda: CellFolder(first.path).status == "done"):
            pass
        yield second

    listener = Silent()
    LocalProcesses(1).run(measured(), listener)
    assert listener.rounds == [(job.cell.folder_name, number) for job in jobs for number in range(1, 101)]
    assert listener.errors == {job.cell.folder_name: None for job in jobs}


def test_rounds_are_told_while_the_next_cell_is_measured(tmp_path: Path):
    first, second = unmeasured_jobs(tmp_path, rounds=3)
    listener = Silent()

    def measured() -> Iterator[Job | None]:
        yield first
        yield from until(lambda: first.cell.folder_name in listener.errors)
        yield second

    LocalProcesses(1).run(measured(), listener)
    assert listener.rounds == [(job.cell.folder_name, number) for job in (first, second) for number in (1, 2, 3)]
    assert set(listener.errors.values()) == {None}


def test_an_error_of_measuring_waits_for_what_trains_and_nothing_else_begins(tmp_path: Path):
    first, second = unmeasured_jobs(tmp_path, rounds=20)
    listener = Silent()

    def measured() -> Iterator[Job | None]:
        yield from (first, second)
        yield from until(lambda: bool(listener.rounds))
        raise OSError(errno.ENOSPC, "No space left on device", "footprints.json")

    with pytest.raises(OSError, match=r"No space left on device: 'footprints\.json'"):
        LocalProcesses(1).run(measured(), listener)
    assert listener.rounds == [(first.cell.folder_name, number) for number in range(1, 21)]
    assert listener.errors == {first.cell.folder_name: None}
    assert not CellFolder(second.path).attempted
    assert multiprocessing_children() == []


def test_ctrl_c_while_an_error_waits_for_what_trains_ends_it_at_once(tmp_path: Path):
    first, _ = unmeasured_jobs(tmp_path, rounds=500)

    class Impatient(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            raise KeyboardInterrupt

    def measured() -> Iterator[Job]:
        yield first
        raise GpuUnavailable("gone")

    with pytest.raises(KeyboardInterrupt):
        LocalProcesses(1).run(measured(), Impatient())
    assert multiprocessing_children() == []
    assert len(CellFolder(first.path).rounds()) < 500


def test_cells_that_were_not_measured_yet_survive_a_killed_worker(tmp_path: Path, prober: Prober):
    todo = [small_cell("exclusive", "200%", seed=seed, recipe=CONFIG.recipe) for seed in range(3)]

    def measured(jobs: list[Job]) -> Iterator[Job]:
        yield jobs[0]
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        yield from jobs[1:]

    class Killing(LocalProcesses):
        def run(self, jobs: Iterable[Job | None], listener: Listener) -> None:
            # A generator, which does not tell how many there are.
            super().run(measured([job for job in jobs if job]), listener)

    listener = Silent()
    sweep(todo, tmp_path, Killing(2), prober, listener)
    assert [listener.errors[cell.folder_name] for cell in todo] == [None] * 3


def test_interrupting_ends_the_workers_and_keeps_the_rounds(tmp_path: Path, prober: Prober):
    cell = small_cell(recipe=replace(SMALL_RECIPE, rounds=200))
    other = small_cell(seed=1, recipe=replace(SMALL_RECIPE, rounds=200))

    class Impatient(Silent):
        def round(self, cell: Cell, row: dict) -> None:
            if row["round"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep([cell, other], tmp_path, LocalProcesses(2), prober, Impatient())
    assert multiprocessing_children() == []
    folder = CellFolder(folder_of(cell, tmp_path).path)
    kept = len(folder.rounds())
    assert kept < 200
    assert (folder.resume() or {"round": 0})["round"] in (kept, kept - 1)
