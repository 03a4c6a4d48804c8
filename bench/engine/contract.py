"""The one seam between a sweep and whoever runs its cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from profl.bench.cell import Cell
from profl.bench.engine.job import Job, Outcome
from profl.bench.federation import RoundRow


class Listener(Protocol):
    """Who is told how jobs go on, in the thread that called `Engine.run`."""

    def round(self, cell: Cell, row: RoundRow) -> None:
        """A round is over and on disk."""

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        """A cell is over."""


class Engine(Protocol):
    """Who runs a sweep's measured cells.

    An engine decides where and when: every job is run by `profl.bench.engine.run_job`, in a process that reaches the
    job's folder. What a cell leaves on disk does not depend on the engine, as `run_job` sees to that.
    """

    def run(self, jobs: Iterable[Job | None], listener: Listener) -> None:
        """Run every job; tell of every round as it ends, and once for each job that its cell is finished.

        A job is measured when it is asked for, which takes seconds: an engine that has workers lets them run meanwhile.
        None comes, some times a second, in place of one that is not ready, for an engine to tell of the others: it asks
        again. How many jobs there are at most is their length hint.
        A job whose worker died is over too: an `Outcome` with an error, while the others go on.

        Raises
        ------
        Exception
            What asking for a job raises, such as `GpuUnavailable` or `OSError`: no more is begun, and cells that are
            being run end first.
        KeyboardInterrupt
            On Ctrl-C, or from the listener, with every worker ended and finished rounds on disk.
        """
