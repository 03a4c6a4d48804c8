"""Times and their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def processor_seconds(run: Callable[[], object]) -> float:
    """Return the time that this process computes, which others on the machine lengthen least."""
    began = time.process_time()
    run()
    return time.process_time() - began


def paired(
    first: Callable[[], object],
    second: Callable[[], object],
    pairs: int,
    timed: Callable[[Callable[[], object]], float] = seconds,
) -> float:
    """Return the median ratio of their times, taken in turns as the machine's speed drifts."""
    first(), second()
    return statistics.median(timed(first) / timed(second) for _ in range(pairs))
