"""What the parent and its worker process say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from profl.bench.memory.gpu.profile import VirtualGpu


@dataclass(frozen=True)
class Estimate:
    """What a worker is told that has no GPU: to estimate what this one would say."""

    gpu: VirtualGpu


@dataclass(frozen=True)
class Request:
    """A job: ``measure``, ``fits`` or ``run``, a pickled workload or program, and further arguments by name.

    Parameters
    ----------
    main
        The parent's main script or module, as ``multiprocessing`` tells it to a process that it spawns; empty if the
        workload needs nothing of it.
    """

    job: str
    workload: bytes
    arguments: Mapping[str, Any]
    main: Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """What a program reports while it runs, before the answer."""

    report: object


@dataclass(frozen=True)
class Answer:
    """The job's result, or the error to raise in its place.

    Parameters
    ----------
    reusable
        False: something is left on the GPU, so the next job needs another worker.
    """

    result: Any = None
    error: Exception | None = None
    reusable: bool = True
