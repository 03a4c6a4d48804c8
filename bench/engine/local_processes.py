"""Jobs run by worker processes of this machine; what becomes of them when one is killed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from multiprocessing.context import SpawnContext
from multiprocessing.queues import SimpleQueue
from operator import length_hint

from profl.bench.cell import Cell
from profl.bench.engine.contract import Listener
from profl.bench.engine.job import WORKER_VARIABLES, Job, Outcome, run_job
from profl.bench.federation import RoundRow
from profl.bench.results import CellFolder

_Pipe = SimpleQueue[tuple[Cell, RoundRow]]


@dataclass(frozen=True)
class LocalProcesses:
    """Runs several jobs at a time, each in a worker process of this machine.

    The workers end with this process, however it ends. If one is killed, all are, as the pool of Python's standard
    library has it: the cells that were being run fail, and those that waited are run by new workers. If measuring
    raises an error, as it would for every cell, those that are being run end first, and those that wait are not begun.

    Parameters
    ----------
    workers
        How many processes at most.
    """

    workers: int

    def run(self, jobs: Iterable[Job | None], listener: Listener) -> None:
        """Run the jobs, the first while the next are measured; see `profl.bench.engine.Engine`."""
        for name, value in WORKER_VARIABLES.items():
            os.environ.setdefault(name, value)
        workers = min(self.workers, length_hint(jobs, self.workers))
        waiting, left = iter(jobs), list[Job]()
        while workers:
            waiting = chain(left, waiting)
            left = _run_until_crash(waiting, workers, listener)
            if not left:
                break


class _Rounds:
    """Rounds that workers tell of, taken from them as they come: who writes to a pipe that is full has to wait.

    What is put into a simple queue is in it before the job ends, so that no round is told too late.
    """

    def __init__(self, context: SpawnContext) -> None:
        self.pipe: _Pipe = context.SimpleQueue()
        self._told: deque[tuple[Cell, RoundRow]] = deque()
        self._lock = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._take_as_they_come, daemon=True).start()

    def __enter__(self) -> _Rounds:
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()

    def _take_as_they_come(self) -> None:
        while not self._over.wait(0.05):
            self._take()

    def _take(self) -> None:
        with self._lock:
            while not self.pipe.empty():
                self._told.append(self.pipe.get())

    def report(self, listener: Listener) -> None:
        """Tell of all rounds so far."""
        self._take()
        while self._told:
            listener.round(*self._told.popleft())


def _run_until_crash(jobs: Iterator[Job | None], workers: int, listener: Listener) -> list[Job]:
    """Run jobs in a pool of workers; return those that were taken and still wait when it breaks.

    Raises whatever ends the jobs, when those that were begun have ended.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch may hang
    waiting: deque[Job] = deque()
    running: dict[Future[Outcome], Job] = {}
    refusals: list[Exception] = []
    # A new pipe for every pool: whoever is killed while writing leaves it locked.
    with (
        _Rounds(context) as rounds,
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(rounds.pipe,)) as pool,
    ):

        def hand_over() -> None:
            """Give jobs to the workers that are free: the pool's own queue would take more than are run."""
            with _uninterrupted():
                while waiting and len(running) < workers:
                    running[pool.submit(_run_in_worker, waiting[0])] = waiting[0]
                    waiting.popleft()

        def attend(seconds: float) -> None:
            if not running:
                return
            with _uninterrupted():
                done, _ = wait(running, timeout=seconds, return_when=FIRST_COMPLETED)
                ended = [(running.pop(future), _outcome(future)) for future in done]
            rounds.report(listener)
            for job, outcome in ended:
                if outcome is None:
                    waiting.extend(_after_crash(job, listener))
                else:
                    listener.finished(job.cell, outcome)

        try:
            with _uninterrupted():
                # All now: they import while the first cell is measured, and a worker that is started while the pool
                # breaks is waited for in vain.
                for _ in range(workers):
                    pool.submit(int)
            with suppress(BrokenProcessPool):
                for job in _until_refused(jobs, refusals):
                    waiting.extend([job] if job else [])
                    hand_over()
                    attend(0)
                if refusals:
                    waiting.clear()
                while waiting or running:
                    hand_over()
                    attend(0.2)
            while running:
                attend(0.2)
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.kill()
            raise
    if refusals:
        raise refusals[0]
    return list(waiting)


def _until_refused(jobs: Iterator[Job | None], refusals: list[Exception]) -> Iterator[Job | None]:
    """Yield jobs until none can be had any more; if that is for an error, it is put into ``refusals``."""
    try:
        for job in jobs:  # noqa: UP028 - the next pool goes on with them: 'yield from' would close them with this
            yield job
    except Exception as error:
        refusals.append(error)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM until the block ends: a pool that is interrupted while it holds a lock never ends.

    Processes that are started in it never see Ctrl-C, not even while they import: it reaches this one, which ends them.
    """
    interruptible = threading.current_thread() is threading.main_thread()
    heard: list[int] = []
    before = {
        request: signal.signal(request, lambda number, _: heard.append(number))
        for request in ((signal.SIGINT, signal.SIGTERM) if interruptible else ())
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for request, handler in before.items():
            signal.signal(request, handler)
        for number in heard[:1]:
            signal.raise_signal(number)


def _outcome(future: Future[Outcome]) -> Outcome | None:
    """Return how a job ended; None if its worker was killed."""
    try:
        return future.result()
    except BrokenProcessPool:
        return None


def _after_crash(job: Job, listener: Listener) -> list[Job]:
    """A worker was killed and all its pool with it: a cell that was running fails, one that waited runs again."""
    folder = CellFolder(job.path)
    if not folder.attempted:
        return [job]
    message = "a worker process was killed, perhaps because the machine ran out of memory: run again to go on"
    folder.fail(message)
    listener.finished(job.cell, Outcome(error=message))
    return []


_pipe: _Pipe | None = None
"""In a worker: where finished rounds are told."""


def _start_worker(pipe: _Pipe) -> None:
    global _pipe
    _pipe = pipe
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(Exception):  # which would end the worker untold; who needs it in a job fails there, and is told
        import_module("torch._dynamo")  # as every optimizer does once there is one: now, while the first is measured
    gc.freeze()  # what the imports brought is searched by no collection, of which there are several as a process ends


def _end_with_parent() -> None:
    """End this worker when the parent is gone, however it ended: nobody else would stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(job: Job) -> Outcome:
    assert _pipe is not None
    pipe = _pipe
    return run_job(job, lambda row: pipe.put((job.cell, row)))
