"""A measured cell that is ready to run, how it is run, and how it ends."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import Timeout

from profl.bench.cell import Cell
from profl.bench.contained import contained, usual_torch
from profl.bench.errors import InputError, in_one_line
from profl.bench.experiment import Experiment
from profl.bench.federation import RoundRow, run_cell
from profl.bench.memory.errors import MeasurementFailed
from profl.bench.memory.process.probe import Prober
from profl.bench.operations import take_over
from profl.bench.results import CellFolder

# Devices hold different numbers of examples, so convolutions come in many shapes; compiling one takes longer than
# running it, and the library keeps too few of them by default.
WORKER_VARIABLES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8192"}
"""Environment variables of a process that runs many jobs, where they are not set otherwise."""


class Outcome(NamedTuple):
    """How a cell ended.

    Parameters
    ----------
    summary
        As ``profl.bench.results`` describes it, if the cell is done.
    error
        What failed, in one line.
    taken
        Whether it was left to another sweep that is at it.
    """

    summary: Mapping[str, Any] | None = None
    error: str | None = None
    taken: bool = False


@dataclass(frozen=True)
class Job:
    """A measured cell, ready to run: picklable, for a worker process.

    Parameters
    ----------
    experiment
        The cell, its names looked up.
    path
        The cell's folder.
    least_budgets, full_model_bytes
        As of ``Measured``.
    operations
        Floating-point operations of a training step by task key, as far as they were counted while it was measured.
    """

    experiment: Experiment
    path: Path
    least_budgets: Mapping[str, int]
    full_model_bytes: int
    operations: Mapping[str, int] = field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """What is run."""
        return self.experiment.cell


@dataclass(frozen=True)
class OnVirtualGpu:
    """A job as a program for a worker process that has the cell's virtual GPU; it reports its rows."""

    job: Job

    @property
    def key(self) -> str:
        return self.job.path.name

    def run(self, device: torch.device, report: Callable[[object], None]) -> Outcome:
        return _run_here(self.job, report)


def run_job(job: Job, on_round: Callable[[RoundRow], None]) -> Outcome:
    """Run one cell: here, or for its memory alone where its virtual GPU is.

    One torch thread computes, whoever calls this, and everything is drawn from the cell's seed: the results do not
    depend on the process or on what ran in it before.

    Parameters
    ----------
    on_round
        Told of every round when it is on disk.

    Returns
    -------
    Outcome
        Also of a cell that failed; the traceback is then in its folder.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, or from ``on_round``; finished rounds are on disk.
    """
    if not job.cell.memory_only:
        return _run_here(job, on_round)
    try:
        with Prober() as prober:
            outcome: Outcome = prober.run(OnVirtualGpu(job), job.cell.gpu, on_round)
            return outcome
    except MeasurementFailed as error:
        return failure(CellFolder(job.path), error)


def _run_here(job: Job, on_round: Callable[[RoundRow], None]) -> Outcome:
    """Run one cell in this process, unless another sweep is at it."""
    folder, experiment = CellFolder(job.path), job.experiment
    try:
        with folder.lock(), folder.attempt(), usual_torch():
            if folder.status != "done":
                with contained(f"method '{job.cell.method}'"):  # which may raise as it says a task's key
                    take_over(job.operations, experiment.tasks, experiment.model, job.cell.recipe, experiment.technique)
                run_cell(experiment, folder, job.least_budgets, job.full_model_bytes, on_round)
    except Timeout:
        return Outcome(taken=True)
    except Exception as error:
        return failure(folder, error)
    return Outcome(folder.summary())


def failure(folder: CellFolder, error: Exception) -> Outcome:
    """Keep the traceback of the error that is being handled in the cell's folder; return how the cell ended."""
    with suppress(OSError):  # a full disk, say: the cell then counts as interrupted
        folder.fail(traceback.format_exc())
    text = in_one_line(error)
    return Outcome(error=text if isinstance(error, InputError) else f"{type(error).__name__}: {text}")
