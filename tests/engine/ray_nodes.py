"""A Ray cluster of several nodes on this machine, and the processes in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from profl.bench.engine.needs import PROCESS_BYTES

SMALL_NODE = {"num_cpus": 1, "memory": 2 * PROCESS_BYTES, "object_store_memory": 80 * 2**20}
"""A node with one core and memory for one small cell."""


@contextmanager
def nodes(count: int) -> Iterator[Any]:
    """Yield a cluster of ``count`` nodes with one core each, and a head that runs no cells."""
    from ray.cluster_utils import Cluster

    # Ray gives way to everything else on a machine, and here that is the other tests.
    settings = {"include_dashboard": False, "_system_config": {"worker_niceness": 0}}
    cluster = Cluster(initialize_head=True, head_node_args={**SMALL_NODE, "num_cpus": 0, **settings})
    try:
        for _ in range(count):
            cluster.add_node(**SMALL_NODE)
        yield cluster
    finally:
        cluster.shutdown()


def cell_processes() -> dict[int, int]:
    """Return the processes of this machine in which Ray runs cells, and the most memory in bytes that each held."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::run_on_node" in (process / "cmdline").read_bytes():
                status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
                found[int(process.name)] = 1024 * int(status["VmHWM"].split()[0])
        except (FileNotFoundError, ProcessLookupError, KeyError):  # it ends
            continue
    return found
