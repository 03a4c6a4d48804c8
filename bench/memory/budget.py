"""The least memory in which a workload runs, found by running it."""

from __future__ import annotations

from collections.abc import Callable

GRANULE_BYTES = 2 << 20
"""Memory comes from the GPU in multiples of this, so a finer limit would change nothing."""


def least_budget_bytes(fits: Callable[[int], bool], likely_low_bytes: int, likely_high_bytes: int) -> int:
    """Search by bisection for a budget that fits while one granule less does not.

    Both facts about the returned budget are observed: ``fits`` was called with the budget and said yes, and
    with one granule less and said no. Budgets in between are not tried and nothing is claimed about them.
    Memory is not quite monotone: short of it, the allocator gives cached blocks back and cuDNN takes a plan
    with less workspace, so a workload may run below its usual peak, and another budget may exist that fits
    though a larger one does not.

    Parameters
    ----------
    fits
        Whether a budget in bytes suffices.
    likely_low_bytes, likely_high_bytes
        Where to search first: peak allocated and peak reserved bytes. A search that ends there goes on
        beyond.
    """
    high = max(1, -(-likely_high_bytes // GRANULE_BYTES))
    low = max(0, (likely_low_bytes - 1) // GRANULE_BYTES)
    while not fits(high * GRANULE_BYTES):
        low, high = high, 2 * high
    while low > 0 and fits(low * GRANULE_BYTES):
        low, high = low // 2, low
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle * GRANULE_BYTES):
            high = middle
        else:
            low = middle
    return high * GRANULE_BYTES
