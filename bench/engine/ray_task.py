"""What runs on a node of a Ray cluster: one cell, in a folder of that node."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import torch

from profl.bench.engine.job import Job, Outcome, run_job
from profl.bench.engine.needs import CONTEXT_BYTES
from profl.bench.errors import InputError
from profl.bench.federation import RoundRow
from profl.bench.instructions import are_set, has_avx2
from profl.bench.memory.limit import memory_limit
from profl.bench.results.transfer import Changes, Copy

News = tuple[Changes, RoundRow | Outcome]
"""What was written, and what it tells of: a finished round, or how the cell ended."""


def run_on_node(job: Job, files: Mapping[str, bytes], gpu_share: float, working_folder: Path) -> Iterator[News]:
    """Run a job, from where ``files`` of its folder left it; yield what is new after every round and at the end.

    The cell is run in a thread: this one hands on what it reports, and hears when the task is cancelled. Where there is
    a ``working_folder``, relative paths start from it.

    Raises
    ------
    InputError
        If the node's processor lacks the instructions with which the cell is to be trained.
    """
    if are_set() and not has_avx2():
        raise InputError(f"no AVX2 on node {socket.gethostname()}: leave it out, or give --instructions native")
    with suppress(OSError):
        os.chdir(working_folder)
    news: SimpleQueue[News | BaseException] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="profl-", ignore_cleanup_errors=True) as folder:
        copy = Copy(Path(folder) / job.path.name, files)
        here = replace(job, path=copy.path)

        def work() -> None:
            try:
                with within_share(gpu_share):
                    outcome = run_job(here, lambda row: news.put((copy.changes(), row)))
                news.put((copy.changes(), outcome))
            except BaseException as error:
                news.put(error)

        threading.Thread(target=work, daemon=True).start()
        while not isinstance(new := news.get(), BaseException) and not isinstance(new[1], Outcome):
            yield new
    if isinstance(new, BaseException):
        raise new
    yield new  # when the folder is gone: whoever hears that the last cell is over may end this process


def within_share(gpu_share: float) -> AbstractContextManager[None]:
    """Limit this process to its share of the GPU, if others have the rest."""
    if not 0 < gpu_share < 1:
        return nullcontext()
    device = torch.device("cuda", 0)
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    return memory_limit(device, int(gpu_share * total_bytes) - CONTEXT_BYTES)
