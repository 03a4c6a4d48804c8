"""Who runs measured cells: this process, local worker processes, or an engine of one's own behind the same seam."""

from profl.bench.engine.contract import Engine, Listener
from profl.bench.engine.in_process import InProcess
from profl.bench.engine.job import Job, Outcome, run_job
from profl.bench.engine.local_processes import LocalProcesses

__all__ = ["Engine", "InProcess", "Job", "Listener", "LocalProcesses", "Outcome", "run_job"]
