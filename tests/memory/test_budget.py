"""The search for the least budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bench.memory.budget import GRANULE_BYTES, least_budget_bytes


@given(
    least=st.integers(1, 500),
    low=st.integers(0, 500 * GRANULE_BYTES),
    gap=st.integers(0, 300 * GRANULE_BYTES),
)
def test_finds_the_threshold_wherever_it_was_expected(least: int, low: int, gap: int) -> None:
    found = least_budget_bytes(lambda budget_bytes: budget_bytes >= least * GRANULE_BYTES, low, low + gap)
    assert found == least * GRANULE_BYTES


@given(good=st.sets(st.integers(1, 60)), low=st.integers(0, 60), gap=st.integers(0, 60))
def test_both_sides_of_the_answer_were_tried(good: set[int], low: int, gap: int) -> None:
    """Whatever fits between: the answer did, and one granule less did not or is nothing."""
    tried: dict[int, bool] = {}

    def fits(budget_bytes: int) -> bool:
        granules = budget_bytes // GRANULE_BYTES
        tried[budget_bytes] = granules in good or granules > 60
        return tried[budget_bytes]

    found = least_budget_bytes(fits, low * GRANULE_BYTES, (low + gap) * GRANULE_BYTES)
    assert tried[found]
    assert found == GRANULE_BYTES or not tried[found - GRANULE_BYTES]


def test_trials_grow_with_the_logarithm_of_the_gap() -> None:
    trials: list[int] = []

    def fits(budget_bytes: int) -> bool:
        trials.append(budget_bytes)
        return budget_bytes >= 850 << 20

    assert least_budget_bytes(fits, 800 << 20, 1000 << 20) == 850 << 20
    assert len(trials) <= 9


def test_a_likely_high_that_fails_is_left_behind() -> None:
    assert least_budget_bytes(lambda budget_bytes: budget_bytes >= 900 << 20, 100 << 20, 200 << 20) == 900 << 20
