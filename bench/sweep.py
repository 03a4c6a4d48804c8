"""A sweep: its cells measured, run by local workers, resumed."""

from __future__ import annotations

import multiprocessing
import os
import platform
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from filelock import Timeout

from profl.bench.cell import Cell
from profl.bench.config import method_of
from profl.bench.data import classes_of, load_dataset
from profl.bench.data.partition import partition
from profl.bench.errors import InputError, in_one_line
from profl.bench.federation import Row, run_cell
from profl.bench.memory.errors import MeasurementFailed
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.timeline import pack
from profl.bench.method import FullModel
from profl.bench.results import CellFolder
from profl.bench.training import TrainingWorkload


@dataclass(frozen=True)
class Measured:
    """What a cell's method needs, measured.

    Parameters
    ----------
    footprints
        By task key.
    full_model_bytes
        Least budget of plain training of the full model.
    """

    footprints: Mapping[str, Footprint]
    full_model_bytes: int

    @property
    def least_budgets(self) -> dict[str, int]:
        """Least budgets in bytes, by task key."""
        return {key: _least(footprint) for key, footprint in self.footprints.items()}

    def entries(self, cell: Cell) -> list[dict[str, Any]]:
        """Return the rows of ``footprints.json``."""
        return [
            {"task": key, "batch_size": cell.recipe.batch_size, "gpu": cell.gpu, **footprint.to_dict()}
            for key, footprint in self.footprints.items()
        ]

    def timelines(self) -> dict[str, Any]:
        """Return the content of ``timelines.json``."""
        return {key: pack(footprint.timeline) for key, footprint in self.footprints.items() if footprint.timeline}


def _least(footprint: Footprint) -> int:
    if footprint.least_budget_bytes is None:
        raise ValueError(f"the least budget of {footprint.key} was not measured")
    return footprint.least_budget_bytes


def workloads(cell: Cell) -> dict[str, TrainingWorkload]:
    """Return the steps to measure for a cell, by task key: every task its method may offer."""
    method = method_of(cell)
    return {task.key: TrainingWorkload(cell.method, method.model, task, cell.recipe) for task in method.all_tasks()}


def measure(cell: Cell, prober: Prober) -> Measured:
    """Measure every task of a cell's method, and the full model."""
    model = cell.spec(classes_of(cell.dataset, Path(cell.data) if cell.data else None))
    full = TrainingWorkload("full", model, FullModel(model), cell.recipe)
    return Measured(
        {key: prober.measure(workload, cell.gpu, timeline=True) for key, workload in workloads(cell).items()},
        _least(prober.measure(full, cell.gpu)),
    )


def deal(todo: Sequence[Cell]) -> None:
    """Deal the examples of every cell once, so that data that cannot be dealt is refused before any work.

    Raises
    ------
    InputError
        If a dataset is missing or damaged, or does not give every device an example.
    """
    for dataset, data in sorted({(cell.dataset, cell.data or "") for cell in todo}):
        targets = load_dataset(dataset, Path(data) if data else None).train_targets.numpy()
        mine = [cell for cell in todo if (cell.dataset, cell.data or "") == (dataset, data)]
        for devices, scheme, seed in {(cell.recipe.devices, cell.recipe.partition, cell.seed) for cell in mine}:
            partition(targets, devices, scheme, seed)


class Listener(Protocol):
    """Who is told how a sweep goes on."""

    def measured(self, cell: Cell) -> None:
        """The cell's footprints are known."""

    def round(self, cell: Cell, row: Row) -> None:
        """A round is over and on disk."""

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        """A cell is over."""


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
    path
        The cell's folder.
    least_budgets, full_model_bytes
        As of ``Measured``.
    """

    cell: Cell
    path: Path
    least_budgets: Mapping[str, int]
    full_model_bytes: int


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a cell runs on."""
    return {
        "profl": version("profl"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads_per_worker": 1,
    }


def run_sweep(todo: Sequence[Cell], output: Path, workers: int, prober: Prober, listener: Listener) -> None:
    """Measure and run the cells that are not done; an error in one leaves the others going.

    Parameters
    ----------
    output
        Folder of the run; finished cells and rounds in it are kept and not repeated.
    workers
        Processes, one torch thread each; 1 runs in this process. The results do not depend on it.

    Raises
    ------
    GpuUnavailable
        If memory cannot be measured here.
    InputError
        If a cell's data cannot be had or dealt.
    KeyboardInterrupt
        On Ctrl-C, with the workers ended and every finished round on disk.
    """
    ready: list[Job] = []
    missing = [cell for cell in todo if folder_of(cell, output).status != "done"]
    deal(missing)
    for cell in missing:
        folder = folder_of(cell, output)
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            with folder.lock():
                folder.begin(cell.to_dict(), environment())
                measured = measure(cell, prober)
                folder.write_footprints(measured.entries(cell))
                folder.write_timelines(measured.timelines())
        except Timeout:
            listener.finished(cell, Outcome(taken=True))
            continue
        except MeasurementFailed as error:
            folder.fail(traceback.format_exc())
            listener.finished(cell, Outcome(error=_one_line(error)))
            continue
        listener.measured(cell)
        ready.append(Job(cell, folder.path, measured.least_budgets, measured.full_model_bytes))
    if workers == 1:
        with _one_torch_thread():
            for job in ready:
                listener.finished(job.cell, _run(job, listener.round))
    else:
        _run_in_processes(ready, workers, listener)


def folder_of(cell: Cell, output: Path) -> CellFolder:
    """Return the cell's folder in a run."""
    return CellFolder(output / "cells" / cell.folder_name)


@dataclass(frozen=True)
class OnVirtualGpu:
    """A job as a program for a worker process that has the cell's virtual GPU; it reports its rows."""

    job: Job

    @property
    def key(self) -> str:
        return self.job.path.name

    def run(self, device: torch.device, report: Callable[[object], None]) -> Outcome:
        return _run_here(self.job, report)


def _run(job: Job, on_round: Callable[[Cell, Row], None]) -> Outcome:
    """Run one cell: here, or for its memory alone where its virtual GPU is."""
    if not job.cell.memory_only:
        return _run_here(job, lambda row: on_round(job.cell, row))
    try:
        with Prober() as prober:
            outcome: Outcome = prober.run(OnVirtualGpu(job), job.cell.gpu, lambda row: on_round(job.cell, row))
            return outcome
    except MeasurementFailed as error:
        CellFolder(job.path).fail(traceback.format_exc())
        return Outcome(error=_one_line(error))


def _run_here(job: Job, on_round: Callable[[Row], None]) -> Outcome:
    """Run one cell in this process, unless another sweep is at it."""
    folder = CellFolder(job.path)
    try:
        with folder.lock(), folder.attempt():
            if folder.status != "done":
                run_cell(job.cell, folder, job.least_budgets, job.full_model_bytes, on_round)
    except Timeout:
        return Outcome(taken=True)
    except Exception as error:
        with suppress(OSError):  # a full disk, say: the cell then counts as interrupted
            folder.fail(traceback.format_exc())
        return Outcome(error=_one_line(error))
    return Outcome(folder.summary())


def _one_line(error: Exception) -> str:
    text = in_one_line(error)
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_rounds: Any = None
"""In a worker: the queue on which finished rounds are reported."""


def _start_worker(rounds: Any) -> None:
    global _rounds
    _rounds = rounds
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the parent is gone, however it ended: nobody else would stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(job: Job) -> Outcome:
    return _run(job, lambda cell, row: _rounds.put((cell, row)))


def _run_in_processes(jobs: Sequence[Job], workers: int, listener: Listener) -> None:
    # Devices hold different numbers of examples, so convolutions come in many shapes; compiling one takes longer than
    # running it, and the library keeps too few of them by default.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch may hang
    left = list(jobs)
    while left:
        rounds = context.Queue()  # a new one for every pool: whoever is killed while writing leaves it locked
        with ProcessPoolExecutor(
            min(workers, len(left)), mp_context=context, initializer=_start_worker, initargs=(rounds,)
        ) as pool:
            running: dict[Future[Outcome], Job] = {pool.submit(_run_in_worker, job): job for job in left}
            left = []
            try:
                while running:
                    done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                    _report(rounds, listener)
                    for future in done:
                        job = running.pop(future)
                        try:
                            listener.finished(job.cell, future.result())
                        except BrokenProcessPool:
                            left += _after_crash(job, listener)
            except BaseException:
                for process in list((pool._processes or {}).values()):
                    process.kill()
                raise


def _after_crash(job: Job, listener: Listener) -> list[Job]:
    """A worker was killed and all its pool with it: a cell that was running fails, one that waited runs again."""
    folder = CellFolder(job.path)
    if not folder.attempted:
        return [job]
    message = "a worker process was killed, perhaps because the machine ran out of memory: run again to go on"
    folder.fail(message)
    listener.finished(job.cell, Outcome(error=message))
    return []


def _report(rounds: Any, listener: Listener) -> None:
    while True:
        try:
            cell, row = rounds.get_nowait()
        except queue.Empty:
            return
        listener.round(cell, row)
