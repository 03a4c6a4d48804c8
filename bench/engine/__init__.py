"""Who runs measured cells: this process, local workers, a Ray cluster, or an engine of one's own behind one seam."""

from profl.bench.engine.contract import Engine, Listener
from profl.bench.engine.in_process import InProcess
from profl.bench.engine.job import Job, Outcome, run_job
from profl.bench.engine.local_processes import LocalProcesses
from profl.bench.engine.ray_cluster import RayCluster

__all__ = ["Engine", "InProcess", "Job", "Listener", "LocalProcesses", "Outcome", "RayCluster", "run_job"]
