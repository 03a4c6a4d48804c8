"""Jobs run by worker processes of this machine; what becomes of them when one is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue

from profl.bench.cell import Cell
from profl.bench.engine.contract import Listener
from profl.bench.engine.job import WORKER_VARIABLES, Job, Outcome, run_job
from profl.bench.federation import RoundRow
from profl.bench.results import CellFolder

_Rounds = SimpleQueue[tuple[Cell, RoundRow]]


@dataclass(frozen=True)
class LocalProcesses:
    """Runs several jobs at a time, each in a worker process of this machine.

    The workers end with this process, however it ends. If one is killed, all are, as the pool of Python's standard
    library has it: the cells that were being run fail, and those that waited are run by new workers.

    Parameters
    ----------
    workers
        How many processes at most.
    """

    workers: int

    def run(self, jobs: Sequence[Job], listener: Listener) -> None:
        """Run the jobs; see `profl.bench.engine.Engine`."""
        for name, value in WORKER_VARIABLES.items():
            os.environ.setdefault(name, value)
        left = list(jobs)
        while left:
            left = _run_until_crash(left, min(self.workers, len(left)), listener)


def _run_until_crash(jobs: Sequence[Job], workers: int, listener: Listener) -> list[Job]:
    """Run jobs in a pool of workers; return those that still wait when it breaks."""
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch may hang
    # What is put into a simple queue is in it before the job ends, so that no round is told too late. A new one for
    # every pool: whoever is killed while writing leaves it locked.
    rounds: _Rounds = context.SimpleQueue()
    left: list[Job] = []
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(rounds,)) as pool:
        running: dict[Future[Outcome], Job] = {pool.submit(_run_in_worker, job): job for job in jobs}
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
    return left


def _after_crash(job: Job, listener: Listener) -> list[Job]:
    """A worker was killed and all its pool with it: a cell that was running fails, one that waited runs again."""
    folder = CellFolder(job.path)
    if not folder.attempted:
        return [job]
    message = "a worker process was killed, perhaps because the machine ran out of memory: run again to go on"
    folder.fail(message)
    listener.finished(job.cell, Outcome(error=message))
    return []


def _report(rounds: _Rounds, listener: Listener) -> None:
    while not rounds.empty():
        listener.round(*rounds.get())


_rounds: _Rounds | None = None
"""In a worker: the queue on which finished rounds are reported."""


def _start_worker(rounds: _Rounds) -> None:
    global _rounds
    _rounds = rounds
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the parent is gone, however it ended: nobody else would stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(job: Job) -> Outcome:
    assert _rounds is not None
    rounds = _rounds
    return run_job(job, lambda row: rounds.put((job.cell, row)))
