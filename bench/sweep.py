"""A sweep: what is missing of it is dealt, measured and run."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from filelock import Timeout

from profl.bench.cell import Cell
from profl.bench.contained import contained
from profl.bench.data import load_dataset
from profl.bench.data.held_out import held_out
from profl.bench.data.partition import partition
from profl.bench.engine import Engine, Job, Listener, Outcome
from profl.bench.engine.job import failure
from profl.bench.experiment import Experiment
from profl.bench.measuring import Measured, measuring_tasks
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.process.pausing import Pausing
from profl.bench.memory.process.probe import Prober
from profl.bench.results.folder import CellFolder, folder_of


def deal(todo: Sequence[Cell]) -> None:
    """Deal the examples of every cell once, so that data that cannot be dealt is refused before any work.

    Raises
    ------
    InputError
        If a dataset is missing or damaged, does not give every device an example or say who holds it, or has a class of
        which nothing can be held out.
    """
    by_data: dict[tuple[str, Path | None, bool], list[Cell]] = {}
    for cell in todo:
        by_data.setdefault((cell.dataset, cell.data_folder, cell.recipe.by_user), []).append(cell)
    for data, mine in by_data.items():
        whole = load_dataset(*data)
        targets, users = whole.train_targets.numpy(), None if whole.users is None else whole.users.numpy()
        for recipe, seed in {(cell.recipe, cell.seed) for cell in mine}:
            dealt = ~held_out(targets, recipe.held_out_share, seed)
            theirs = None if users is None else users[dealt]
            partition(targets[dealt], recipe.devices, recipe.partition, seed, users=theirs)


class SweepListener(Listener, Protocol):
    """Who is told how a sweep goes on."""

    def measured(self, cell: Cell) -> None:
        """The cell's footprints are known."""


def run_sweep(
    todo: Sequence[Experiment],
    output: Path,
    engine: Engine,
    prober: Prober,
    listener: SweepListener,
    grid: Sequence[Cell] = (),
) -> None:
    """Measure and run the cells that are not done; an error in one leaves the others going.

    Parameters
    ----------
    todo
        What is run here.
    output
        Folder of the run; finished cells and rounds in it are kept and not repeated.
    engine
        Who runs what is measured. The results do not depend on it.
    grid
        All cells that are to be run, here or elsewhere: the run then tells how many are missing.

    Raises
    ------
    GpuUnavailable
        If memory cannot be measured here.
    InputError
        If a cell's data cannot be had or dealt.
    KeyboardInterrupt
        On Ctrl-C, with the workers ended and every finished round on disk.
    """
    missing = [experiment for experiment in todo if folder_of(experiment.cell, output).status != "done"]
    for gpu in {experiment.cell.gpu for experiment in missing}:
        prober.start(gpu)  # its process imports what it needs while examples are dealt and workers start
    deal([experiment.cell for experiment in missing])
    for cell in grid:
        folder_of(cell, output).announce(cell.to_dict())
    with closing(_Jobs(missing, output, prober, listener)) as jobs:
        engine.run(jobs, listener)


class _Jobs(Iterator[Job | None]):
    """What there is to run, each cell measured when it is asked for; None at every pause in which it is not ready."""

    def __init__(self, missing: Sequence[Experiment], output: Path, prober: Prober, listener: SweepListener) -> None:
        self._most = len(missing)
        self._measured = _one_by_one(missing, output, prober, listener)

    def __length_hint__(self) -> int:
        return self._most

    def __next__(self) -> Job | None:
        return next(self._measured)

    def close(self) -> None:
        """End what is being measured."""
        self._measured.close()


def _one_by_one(
    missing: Sequence[Experiment], output: Path, prober: Prober, listener: SweepListener
) -> Generator[Job | None, None, None]:
    for experiment in missing:
        job = yield from _measured(experiment, folder_of(experiment.cell, output), prober, listener)
        if job:
            yield job


def _measured(
    experiment: Experiment, folder: CellFolder, prober: Prober, listener: SweepListener
) -> Pausing[Job | None]:
    """Measure a cell into its folder; return the job, or None if another sweep is at the cell or measuring fails."""
    cell = experiment.cell
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with folder.lock():
            folder.begin(cell.to_dict())
            measured = yield from _contained(f"method '{cell.method}'", measuring_tasks(experiment, prober))
            folder.write_footprints(measured.entries(cell))
            folder.write_timelines(measured.timelines())
    except Timeout:
        listener.finished(cell, Outcome(taken=True))
        return None
    except (GpuUnavailable, OSError):  # and so it is for every cell
        raise
    except Exception as error:  # code that is plugged in may raise anything
        listener.finished(cell, failure(folder, error))
        return None
    listener.measured(cell)
    counted = measured.operations if cell.measured_as is None else {}  # else they are of another scale
    return Job(experiment, folder.path, measured.least_budgets, measured.full_model_bytes, counted)


def _contained(who: str, work: Pausing[Measured]) -> Pausing[Measured]:
    """Go on with the work of code that is plugged in, contained; its pauses, in which others work, are not."""
    with closing(work):
        while True:
            with contained(who):
                try:
                    next(work)
                except StopIteration as end:
                    measured: Measured = end.value
                    return measured
            yield
