"""The least memory in which a workload runs, found by running it."""

from __future__ import annotations

from collections.abc import Callable

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
    the peak, whichever is more; one step below the answer was tried and failed. Nothing is claimed about lower ones.

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
        Bytes, a multiple of 2 MiB; None if not even the whole GPU fits.
    """
    step = GRANULE_BYTES * max(1, _ceil_divide(peak_reserved_bytes, RESOLUTION * GRANULE_BYTES))
    budget = step * max(1, _ceil_divide(peak_reserved_bytes, step))
    if fits(budget):
        while budget > step and fits(budget - step):
            budget -= step
        return budget
    while budget < total_bytes:
        budget += step
        if fits(budget):
            return budget
    return None


def _ceil_divide(number: int, divisor: int) -> int:
    return -(-number // divisor)
