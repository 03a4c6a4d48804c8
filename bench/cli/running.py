"""Running a sweep for a command: what it prints meanwhile, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from profl.bench.cli.exit_codes import Ended, ExitCode
from profl.bench.cli.stopping import if_stopped
from profl.bench.cli.volume import progress_console, volume
from profl.bench.errors import InputError

if TYPE_CHECKING:
    from profl.bench.cell import Cell
    from profl.bench.engine import Engine
    from profl.bench.experiment import Experiment
    from profl.bench.memory.process.probe import Prober
    from profl.bench.progress import SweepEvents, SweepProgress


WHOLE = slice(None)
"""All of a grid."""


def chosen_engine(engine: str = "local", address: str | None = None, workers: int | None = None) -> Engine:
    """Return who runs cells, as the options say.

    Raises
    ------
    click.UsageError
        If an option has no meaning for the engine.
    InputError
        If there is no Ray, or no cluster, or the address is empty.
    """
    from profl.bench.engine import InProcess, LocalProcesses, RayCluster

    if address == "":
        raise InputError("--address is empty: give HOST:PORT of the cluster's head node, or leave the option out")
    if engine == "ray":
        if workers:
            raise click.UsageError("--workers is for --engine local: on Ray, cells run on all cores of the cluster")
        return RayCluster(address)
    if address:
        raise click.UsageError("--address is that of a Ray cluster: give --engine ray too")
    workers = workers or os.cpu_count() or 1
    return InProcess() if workers == 1 else LocalProcesses(workers)


def carry_out(
    possible: Sequence[Experiment],
    run: Path,
    engine: Engine,
    prober: Prober,
    as_json: bool = False,
    log_to: Sequence[str] = (),
    part: slice = WHOLE,
) -> SweepEvents | SweepProgress:
    """Run what is missing of a sweep, or of a part of it, in the folder of a run; return who was told how it went.

    Raises
    ------
    InputError
        Before any work, if the folder is damaged or holds cells of another recipe, or a tool of ``log_to`` is missing.
    """
    from profl.bench.environment import mixture, training_environment
    from profl.bench.progress import SweepEvents, SweepProgress
    from profl.bench.results.folder import cell_folders, folder_of
    from profl.bench.results.record import read_record
    from profl.bench.results.runs import at_work, make_way
    from profl.bench.sweep import run_sweep
    from profl.bench.tracking import Tracking, trackers

    tools = trackers(log_to, run)
    grid = [experiment.cell for experiment in possible]
    todo = grid[part]
    tell_strays(run, grid)
    console = progress_console()
    for cell in todo:
        read_record(folder_of(cell, run))
    if removed := make_way(run, grid):
        console.print(
            f"removed from {run}: {len(removed)} {'cell' if len(removed) == 1 else 'cells'} of another recipe that had "
            "not finished a round",
            highlight=False,
            soft_wrap=True,
        )
    missing = [cell for cell in todo if folder_of(cell, run).status != "done"]
    finished = sum(len(folder_of(cell, run).rounds()) for cell in missing)
    console.print(_standing(run, todo, len(grid), missing, finished), highlight=False, soft_wrap=True)
    listener = SweepEvents() if as_json else SweepProgress(missing, finished, console, volume() == "verbose")
    now = training_environment()
    differences = {folder.path.name: mixture([*folder.environments(), now]) for folder in cell_folders(run)}
    otherwise = {name: difference for name, difference in differences.items() if difference}
    trains = any(not cell.memory_only for cell in missing)
    with (
        if_stopped(f"finished rounds are kept in {run}: run the same command to go on"),
        at_work(run),
        listener as progress,
    ):
        if trains and otherwise:
            progress.trained_otherwise(otherwise)
        with Tracking(progress, tools, run, console) as told:
            run_sweep(possible[part], run, engine, prober, told, grid)
    for place in told.places():
        console.print(place, highlight=False, soft_wrap=True, markup=False)
    return progress


def _standing(run: Path, todo: Sequence[Cell], of_cells: int, missing: Sequence[Cell], finished: int) -> str:
    """Say how far a sweep is before it goes on: ``3 cells in run: 1 is done, of the others 6 of 40 rounds``."""
    done = len(todo) - len(missing)
    told = [f"{done} {'is' if done == 1 else 'are'} done"] if done else []
    if finished:
        rounds = f"{finished} of {sum(cell.recipe.rounds for cell in missing)} rounds"
        told.append(f"of the others {rounds}" if done else f"{rounds} are done")
    of_grid = f"{len(todo)} of the grid's {of_cells}" if len(todo) < of_cells else str(len(todo))
    cells = f"{of_grid} {'cell' if of_cells == 1 else 'cells'} in {run}"
    return f"{cells}: {', '.join(told)}" if told else cells


def tell_strays(run: Path, todo: Sequence[Cell] = ()) -> None:
    """Say in a line which folders in a run are left out, as they are none of its cells and none of those to do."""
    from profl.bench.results.folder import strays
    from profl.bench.validation import printable

    if names := strays(run, todo):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        are = "is no cell" if len(names) == 1 else "are no cells"
        click.echo(
            printable(f"left out of {run}/cells: {', '.join(names[:3])}{more}, which {are} of a sweep"), err=True
        )


def refuse_incomplete(progress: SweepEvents | SweepProgress, cells: int, run: Path) -> None:
    """End the command with an error if any of a sweep's cells failed or was left to another sweep."""
    if progress.failures:
        raise Ended(
            f"{len(progress.failures)} of {cells} cells failed; see error.txt in their folders under {run}/cells",
            ExitCode.FAILED,
        )
    if progress.taken:
        raise Ended(
            f"{len(progress.taken)} of {cells} cells were left to another sweep in {run}: run the same command "
            "when it is over, or choose another --output",
            ExitCode.FAILED,
        )
