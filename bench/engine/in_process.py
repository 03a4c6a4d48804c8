"""Jobs run in this process, one after another."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from profl.bench.engine.contract import Listener
from profl.bench.engine.job import Job, run_job


class InProcess:
    """The simplest engine: no other process, and nothing at a time but one job."""

    def run(self, jobs: Iterable[Job | None], listener: Listener) -> None:
        """Run the jobs; see `profl.bench.engine.Engine`."""
        for job in list(filter(None, jobs)):  # what cannot be measured is told before anything is trained
            listener.finished(job.cell, run_job(job, partial(listener.round, job.cell)))
