"""Jobs run as tasks of a Ray cluster; what becomes of them when a node is lost.

Ray is an extra of the package, and imported where a cluster is used alone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import Timeout

from profl.bench.engine.contract import Listener
from profl.bench.engine.job import WORKER_VARIABLES, Job, Outcome, failure
from profl.bench.engine.needs import gpu_share, memory_bytes
from profl.bench.engine.ray_task import run_on_node
from profl.bench.errors import InputError, in_one_line
from profl.bench.federation import RoundRow
from profl.bench.fleet import format_bytes
from profl.bench.instructions import VARIABLES
from profl.bench.results import CellFolder
from profl.bench.results.transfer import bring_back, pack

STARTS = 3
"""So many starts in a row that are lost before they finish one more round, and a cell fails."""

_log = logging.getLogger(__name__)
_LOOK_SECONDS, _CONNECT_SECONDS, _END_SECONDS = 0.5, 5, 10


class RayCluster:
    """Runs every job as a task of a Ray cluster: one core, and the memory that `profl.bench.engine.needs` tells.

    A task works in a folder of its node; what it writes is brought back after every round, before the round is told. A
    cell whose node or process is lost is started again after its last round that came back.

    Parameters
    ----------
    address
        ``HOST:PORT`` of the head node. None, as Ray has it: the cluster that ``RAY_ADDRESS`` names, or else one that
        runs on this machine, or else a new one of this machine alone.

    Raises
    ------
    InputError
        If Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str | None = None) -> None:
        if find_spec("ray") is None:
            raise InputError("the engine 'ray' needs the package ray: pip install 'profl[ray]'")
        _connect(address)

    def run(self, jobs: Iterable[Job | None], listener: Listener) -> None:
        """Run the jobs and leave the cluster; see `profl.bench.engine.Engine`.

        Raises
        ------
        InputError
            If no node has what a job needs.
        """
        import ray

        running: list[_RemoteCell] = []
        try:
            waiting = deque(_RemoteCell(job) for job in jobs if job)
            for cell in waiting:
                cell.check()
            while waiting or running:
                # Those that Ray keeps waiting are locked; there are enough of them for an autoscaler to see.
                while waiting and len(running) < 2 * max(1, int(ray.cluster_resources().get("CPU", 0))):
                    cell = waiting.popleft()
                    if outcome := cell.begin():
                        listener.finished(cell.job.cell, outcome)
                    else:
                        running.append(cell)
                for cell in _with_news(running):
                    event = cell.hear()
                    if isinstance(event, Outcome):
                        running.remove(cell)
                        cell.release()
                        listener.finished(cell.job.cell, event)
                    elif event is not None:
                        listener.round(cell.job.cell, event)
        finally:
            _end(running)


class _RemoteCell:
    """A cell that is run elsewhere, and its folder here, which is locked meanwhile."""

    def __init__(self, job: Job) -> None:
        self.job, self.folder = job, CellFolder(job.path)
        self.stream: Any = None
        self._memory_bytes, self._gpu_share = memory_bytes(job), gpu_share(job)
        self._held = ExitStack()
        self._fruitless_starts = 0

    def check(self) -> None:
        """Refuse a cell for which every node of the cluster is too small."""
        import ray

        needs = {"CPU": 1, "memory": self._memory_bytes, "GPU": self._gpu_share}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= need for name, need in needs.items()) for node in nodes):
            gpu = f" and {self._gpu_share:.0%} of a GPU" if self._gpu_share else ""
            raise InputError(
                f"no node of the Ray cluster has the core, {format_bytes(self._memory_bytes)} of memory{gpu} that "
                f"{self.job.path.name} needs: add one, or give a node more with 'ray start --memory'"
            )

    def begin(self) -> Outcome | None:
        """Lock the folder and start the cell; return how it ended if that is all."""
        try:
            self._held.enter_context(self.folder.lock())
        except Timeout:
            return Outcome(taken=True)
        try:
            self._held.enter_context(self.folder.attempt())
            if self.folder.status != "done":
                self._start()
                return None
            outcome = Outcome(self.folder.summary())
        except Exception as error:
            outcome = failure(self.folder, error)
        self.release()
        return outcome

    def _start(self) -> None:
        self._fruitless_starts += 1
        self._send()

    def _send(self) -> None:
        """Send the cell to the cluster with all that is finished of it."""
        import ray

        task = ray.remote(max_retries=0, num_cpus=1, num_gpus=self._gpu_share, memory=self._memory_bytes)(run_on_node)
        self.stream = task.remote(self.job, pack(self.folder), self._gpu_share, Path.cwd())

    def hear(self) -> RoundRow | Outcome | None:
        """Write what came back and return what it tells of; None if the cell was lost and has started again."""
        import ray

        try:
            event = self.receive()
        except ray.exceptions.RayTaskError as error:  # raised on the node
            return failure(self.folder, error.cause if isinstance(error.cause, InputError) else error)
        except (ray.exceptions.RayError, StopIteration):
            return self.start_again()
        except Exception as error:
            return failure(self.folder, error)
        self._fruitless_starts = 0
        return event

    def receive(self) -> RoundRow | Outcome:
        """Write what came back to the folder; return what it tells of."""
        import ray

        changes, event = ray.get(next(self.stream))
        bring_back(changes, self.folder)
        told: RoundRow | Outcome = event
        return told

    def start_again(self) -> Outcome | None:
        """Start the cell again after its last finished round; return how it ended if that has failed too often."""
        if self._fruitless_starts < STARTS:
            try:
                self._start()
            except Exception as error:
                return failure(self.folder, error)
            _log.warning("%s was lost with its node or process: it goes on elsewhere", self.job.path.name)
            return None
        message = (
            f"lost with its node or process {STARTS} times without one more finished round, perhaps because a node ran "
            "out of memory: run again to go on"
        )
        self.folder.fail(message)
        return Outcome(error=message)

    def release(self) -> None:
        """Give the folder back."""
        self._held.close()


def _with_news(running: Sequence[_RemoteCell]) -> list[_RemoteCell]:
    """Wait a moment for news; return the cells that have some."""
    import ray

    streams = [cell.stream for cell in running]
    if not streams or not ray.wait(streams, timeout=_LOOK_SECONDS)[0]:
        return []
    ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0)
    return [cell for cell in running if any(cell.stream is stream for stream in ready)]


def _end(running: Sequence[_RemoteCell]) -> None:
    """End what still runs and keep the rounds that were on their way; leave the cluster."""
    import ray

    until = time.monotonic() + _END_SECONDS
    try:
        for cell in running:
            ray.cancel(cell.stream)
        for cell in running:
            with suppress(ray.exceptions.RayError, StopIteration):  # it has ended
                while ray.wait([cell.stream], timeout=max(0, until - time.monotonic()))[0]:
                    cell.receive()
            cell.release()
    finally:
        ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    where = address or os.environ.get("RAY_ADDRESS")
    try:
        if where and where not in ("auto", "local"):
            _reach(where)
        with _sigterm_kept():
            # Ray prints pages about lost nodes to stdout, where events go; this is its only switch.
            ray._private.worker._worker_logs_enabled = False
            ray.init(where, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": _variables()})
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"no Ray cluster at {where or 'this machine'} to work with: {in_one_line(error)}") from None


def _reach(address: str) -> None:
    """Open a connection and close it again: Ray would try for a minute and write a page."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        raise ValueError("give HOST:PORT of its head node, as 'ray start --head' prints it")
    socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


def _variables() -> Mapping[str, str]:
    """Return what workers must have in their environment before they import torch."""
    return WORKER_VARIABLES | {name: os.environ[name] for name in VARIABLES if name in os.environ}


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep what this process does on SIGTERM: Ray would exit without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
