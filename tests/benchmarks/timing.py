"""Times and their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def paired(first: Callable[[], object], second: Callable[[], object], pairs: int) -> float:
    """Return the median ratio of their times, taken in turns as the machine's speed drifts."""
    first(), second()
    return statistics.median(seconds(first) / seconds(second) for _ in range(pairs))
