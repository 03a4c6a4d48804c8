"""The least memory in which a workload runs, found by running it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import takewhile

GRANULE_BYTES = 2 << 20
"""Memory comes from the GPU in multiples of this, so a finer limit would change nothing."""

RESOLUTION = 256
"""Budgets are told apart to this share of the reserved peak, but no finer than a granule."""


def least_budget_bytes(fits: Callable[[int], bool], peak_reserved_bytes: int, total_bytes: int) -> int | None:
    """Return the smallest budget from which on every budget up to the reserved peak fits.

    Memory is not monotone. Short of it, the allocator gives cached blocks back and cuDNN takes a plan with less
    workspace, so a workload may run below its usual peak; and where what is cached lies in an unlucky order, it may
    fail in more memory than it ran in elsewhere. The search therefore comes down from the reserved peak and stops
    at the first failure. Every budget from the answer to the reserved peak was tried, in steps of 2 MiB or 1/256 of
    the peak, whichever is more, and none above the GPU's memory; one step below the answer was tried and failed.
    Nothing is claimed about lower ones.

    Parameters
    ----------
    fits
        Whether a budget in bytes suffices.
    peak_reserved_bytes
        What the workload takes with plenty of memory left.
    total_bytes
        The GPU's memory: where the search ends if the reserved peak does not suffice.

    Returns
    -------
    int or None
        Bytes, a multiple of 2 MiB or the whole GPU; None if not even that fits.
    """
    budgets, start = budgets_to_try(peak_reserved_bytes, total_bytes)
    if fits(budgets[start]):
        fitting = takewhile(fits, reversed(budgets[:start]))
        return min(fitting, default=budgets[start])
    return next((budget for budget in budgets[start + 1 :] if fits(budget)), None)


def budgets_to_try(peak_reserved_bytes: int, total_bytes: int) -> tuple[list[int], int]:
    """Return all budgets that are told apart, ascending, and the index of the first that holds the reserved peak."""
    step = GRANULE_BYTES * max(1, _ceil_divide(peak_reserved_bytes, RESOLUTION * GRANULE_BYTES))
    budgets = [*range(step, total_bytes, step), total_bytes]
    return budgets, bisect_left(budgets, min(peak_reserved_bytes, total_bytes))


def _ceil_divide(number: int, divisor: int) -> int:
    return -(-number // divisor)
