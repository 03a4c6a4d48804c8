"""Measure workloads in worker processes: this one needs no GPU, and nothing it holds is measured."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import Pipe, spawn
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from profl.bench.errors import in_one_line
from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed, OutOfMemory
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.gpu.build import build
from profl.bench.memory.gpu.driver import Setup
from profl.bench.memory.gpu.installation import find_installation
from profl.bench.memory.gpu.profile import ESTIMATE, resolve
from profl.bench.memory.process.pausing import Pausing, finished
from profl.bench.memory.process.protocol import Answer, Estimate, Progress, Request
from profl.bench.memory.workload import Program, Workload

__all__ = ["GpuUnavailable", "MeasurementFailed", "OutOfMemory", "Prober", "probe"]

_LAUNCH = Path(__file__).with_name("launch.py")
_GRACE_SECONDS = 5
_PAUSE_SECONDS = 0.1
_DEATHS = {
    -signal.SIGKILL: "it was killed, as happens where this machine's own memory runs out: build the step smaller, or "
    "all of it on the device that is given"
}
"""What the end of a worker that left no word means, by its status."""
_MAIN = ("init_main_from_name", "init_main_from_path")
_WORKER_VARIABLES = {
    # PyTorch keeps every convolution's plan, also one that it fell back to when memory was short. Without
    # that memory a measurement does not depend on those before it; docs/trust.md says what that moves.
    "TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT": "-1",
    # The fast way to name the functions of a stack; exported ones are all that is asked for.
    "TORCH_SYMBOLIZE_MODE": "dladdr",
    "OMP_NUM_THREADS": "1",
}


def probe(
    workload: Workload,
    gpu: str,
    *,
    steps: int = 3,
    least_budget: bool = True,
    timeline: bool = False,
    snapshot: Path | None = None,
) -> Footprint:
    """Measure one workload in a worker process of its own; see `Prober.measure`."""
    with Prober() as prober:
        return prober.measure(
            workload, gpu, steps=steps, least_budget=least_budget, timeline=timeline, snapshot=snapshot
        )


class Prober:
    """Measures workloads; keeps one warm worker process per GPU, and every footprint it has measured.

    Use as a context manager: the workers end with it. They also end when this process does, however it ends.
    """

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._asked: set[str] = set()
        self._footprints: dict[tuple[object, ...], Footprint] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # nobody waits for what they may be doing
            self._kill()
        self.close()

    def start(self, gpu: str) -> None:
        """Start the worker process of a GPU ahead: it imports what it needs while this process does something else.

        Raises
        ------
        GpuUnavailable
            As `measure` does.
        """
        if gpu not in self._workers:
            self._workers[gpu] = _Worker(gpu)

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.kill()
        self._workers.clear()

    def close(self) -> None:
        """End the workers; a later call starts new ones."""
        workers = list(self._workers.values())
        self._workers.clear()
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.close()

    def measure(
        self,
        workload: Workload,
        gpu: str,
        *,
        steps: int = 3,
        least_budget: bool = True,
        timeline: bool = False,
        snapshot: Path | None = None,
    ) -> Footprint:
        """Return the footprint of ``workload``, measured once for every key, GPU and options.

        Parameters
        ----------
        gpu
            ``cuda``, or a virtual or estimated GPU as `profl.bench.memory.gpu.profile.resolve` names them.
        steps
            Training steps to run; momentum and the like exist from the second on.
        least_budget
            Whether to search for the least budget, which runs dozens of steps more.
        timeline
            Whether to keep the live bytes at every moment.
        snapshot
            Also write the allocator's log to this file, for https://pytorch.org/memory_viz.

        Raises
        ------
        GpuUnavailable
            If the GPU cannot be had; the message says what is missing.
        OutOfMemory
            If the whole GPU is too small for the workload.
        MeasurementFailed
            If the workload raises an error, or the worker process dies.
        """
        return finished(
            self.measuring(workload, gpu, steps=steps, least_budget=least_budget, timeline=timeline, snapshot=snapshot)
        )

    def measuring(
        self,
        workload: Workload,
        gpu: str,
        *,
        steps: int = 3,
        least_budget: bool = True,
        timeline: bool = False,
        snapshot: Path | None = None,
    ) -> Pausing[Footprint]:
        """Do what `measure` does, with pauses while the worker is at it, in which nothing else is asked of this GPU."""
        if steps < 1:
            raise ValueError(f"steps is {steps}: at least 1 must be run")
        options = {"steps": steps, "least_budget": least_budget, "timeline": timeline}
        known = (workload.key, gpu, *options.values())
        if snapshot is not None or known not in self._footprints:
            arguments = {"gpu": gpu, "snapshot": snapshot and snapshot.absolute(), **options}
            self._footprints[known] = yield from self._asking(gpu, _request("measure", workload, arguments))
        return self._footprints[known]

    def fits(self, workload: Workload, gpu: str, budget_bytes: int) -> bool:
        """Run ten steps with ``budget_bytes`` of GPU memory; return whether that sufficed.

        Raises as `measure` does, except for `OutOfMemory`.
        """
        return finished(self._asking(gpu, _request("fits", workload, {"budget_bytes": budget_bytes})))

    def run(self, program: Program, gpu: str, on_report: Callable[[Any], None]) -> Any:
        """Run a program where the GPU is, handing on what it reports meanwhile; return its result.

        Raises as `measure` does.
        """
        return finished(self._asking(gpu, _request("run", program, {}), on_report))

    def _asking(
        self, gpu: str, request: Request, on_report: Callable[[Any], None] = lambda report: None
    ) -> Pausing[Any]:
        if gpu in self._asked:
            raise RuntimeError(
                f"{gpu} is asked for something in a pause of what was asked before: wait until that is done"
            )
        self.start(gpu)
        self._asked.add(gpu)
        try:
            answer = yield from self._workers[gpu].ask(request, on_report)
        except BaseException:  # also Ctrl-C, or left: the answer still under way would be taken for the next one's
            if worker := self._workers.pop(gpu, None):  # none where all is closed already
                worker.kill()
            raise
        finally:
            self._asked.discard(gpu)
        if not answer.reusable:
            self._workers.pop(gpu).close()
        if answer.error:
            raise answer.error
        return answer.result


class _Worker:
    """One worker process, at the other end of a pipe."""

    def __init__(self, gpu: str) -> None:
        if str(_LAUNCH) in sys.orig_argv:
            raise MeasurementFailed(
                "the script starts a measurement whenever it is imported, as the worker process must to know what it "
                "defines: start it behind: if __name__ == '__main__'"
            )
        setup, variables = _setup(gpu)
        self._connection, other_end = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_LAUNCH), str(other_end.fileno())],
            env=variables,
            pass_fds=[other_end.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
        )
        other_end.close()
        with contextlib.suppress(BrokenPipeError):  # a death at birth is reported by the first question
            self._connection.send(sys.path)
            self._connection.send(setup)

    def ask(self, request: Request, on_report: Callable[[Any], None]) -> Pausing[Answer]:
        """Return the worker's answer, with pauses until it comes; what it reports before goes to ``on_report``.

        Raises
        ------
        MeasurementFailed
            If the worker dies instead; the message ends with its last words.
        """
        with self._alive():
            self._connection.send(request)
        yield  # however soon the answer comes: whoever asks may have something else to do
        while True:
            with self._alive():
                while not self._connection.poll(_PAUSE_SECONDS):
                    yield
                answer: Answer | Progress = self._connection.recv()
            if isinstance(answer, Answer):
                return answer
            on_report(answer.report)

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Tell of the worker's death where the pipe to it breaks."""
        try:
            yield
        except (EOFError, BrokenPipeError, ConnectionResetError):
            status = self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace")[-2000:].strip()
            words = last.splitlines()[-1] if last else _DEATHS.get(status, "no message")
            more = f"\n{last}" if last != words and last else ""
            raise MeasurementFailed(f"the worker process died with status {status}: {words}{more}") from None

    def hang_up(self) -> None:
        """Close the pipe, whereupon the process ends."""
        self._connection.close()

    def close(self) -> None:
        """End the process; if it is too busy to notice that the pipe is closed, it is killed."""
        self.hang_up()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self.close()


def _request(job: str, workload: Workload | Program, arguments: Mapping[str, Any]) -> Request:
    try:
        pickled = pickle.dumps(workload)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        nameless = any(sign in str(error) for sign in ("<lambda>", "<locals>", "local object"))
        remedy = "define it at the top of a module or script, not as a lambda or inside a function"
        raise MeasurementFailed(
            f"{workload.key} cannot be sent to the worker process ({in_one_line(error)}): "
            + (remedy if nameless else "give it only values that can be pickled")
        ) from None
    told = spawn.get_preparation_data("worker") if b"__main__" in pickled else {}
    return Request(job, pickled, arguments, {name: told[name] for name in _MAIN if name in told})


def _setup(gpu: str) -> tuple[Setup | Estimate | None, dict[str, str]]:
    """Return what the worker puts in place, and its environment variables."""
    virtual = resolve(gpu)
    variables = {**os.environ, **_WORKER_VARIABLES}
    if virtual is None:
        return None, variables
    if gpu.startswith(ESTIMATE):
        return Estimate(virtual), variables | {"CUDA_VISIBLE_DEVICES": ""}  # also where there is a real one
    variables.pop("CUDA_VISIBLE_DEVICES", None)  # it speaks of the real ones
    return Setup(virtual, build(), find_installation().cudnn), variables
