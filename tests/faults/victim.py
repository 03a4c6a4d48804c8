"""Sweeps to do harm to, each in a process of its own: real cells and files, tiny training, made-up footprints.

``python -m tests.faults.victim`` imports what a sweep needs, once, and forks for each line ``FOLDER ENGINE LIMIT`` that
it reads: it prints the process's number, and when that is over how it ended.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from profl.bench.cell import Cell
from profl.bench.engine import Engine, InProcess, LocalProcesses
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.pausing import Pausing
from profl.bench.training import TrainingWorkload
from tests.conftest import SMALL_RECIPE, small_cell  # first: it chooses the instructions
from tests.results.conftest import MEASURED
from tests.sweeps import Silent, sweep

RECIPE = replace(SMALL_RECIPE, rounds=4, devices=120, participants=2, evaluate_every=2)
FINE = (small_cell(recipe=RECIPE), small_cell("exclusive", "100%", recipe=RECIPE))
DIVERGING = (small_cell("fedavg", recipe=replace(RECIPE, learning_rate=1e6)),)
ENGINES = {"here": InProcess, "two": lambda: LocalProcesses(2)}


class MadeUp:
    """Measures nothing: what is killed here is what comes after measuring."""

    def start(self, gpu: str) -> None: ...

    def measuring(self, workload: TrainingWorkload, gpu: str, **options: object) -> Pausing[Footprint]:
        yield
        return replace(MEASURED, key=workload.key)


def run(folder: Path, engine: Engine, cells: Sequence[Cell]) -> int:
    """Run a sweep; return 0 if all its cells are done now, 1 if some failed or are another's."""
    listener = Silent()
    sweep(list(cells), folder, engine, MadeUp(), listener)  # type: ignore[arg-type]
    for error in filter(None, listener.errors.values()):
        print(error, flush=True)
    return 1 if listener.taken or any(listener.errors.values()) else 0


def _forked(folder: str, engine: str, limit: str) -> int:
    """Start a sweep in a process that nobody else shares; return its number."""
    if pid := os.fork():
        return pid
    code = 2
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDONLY) if number == 0 else log, number)
        if int(limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        cells = DIVERGING if Path(folder).name.startswith("diverging") else FINE
        code = run(Path(folder), ENGINES[engine](), cells)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Serve until nobody asks any more."""
    for line in sys.stdin:
        pid = _forked(*line.split("\t")[:3])
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
