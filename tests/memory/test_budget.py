"""The search for the least budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profl.bench.memory.recording.budget import GRANULE_BYTES, least_budget_bytes

TOTAL_BYTES = 4 << 30


@given(least=st.integers(1, 200), gap=st.integers(0, 50 * GRANULE_BYTES))
def test_finds_the_threshold_to_the_granule(least: int, gap: int) -> None:
    threshold = least * GRANULE_BYTES
    found = least_budget_bytes(lambda budget_bytes: budget_bytes >= threshold, threshold + gap, TOTAL_BYTES)
    assert found == threshold


@given(bad=st.sets(st.integers(1, 100)), reserved=st.integers(1, 100))
def test_everything_from_the_answer_to_the_reserved_peak_was_tried_and_fits(bad: set[int], reserved: int) -> None:
    """Whatever fits between: the answer is above the last failure, and one granule less is that failure."""
    tried: dict[int, bool] = {}

    def fits(budget_bytes: int) -> bool:
        granules = budget_bytes // GRANULE_BYTES
        tried[granules] = granules not in bad
        return tried[granules]

    found = least_budget_bytes(fits, reserved * GRANULE_BYTES, TOTAL_BYTES)
    assert found is not None
    granules = found // GRANULE_BYTES
    assert all(tried[between] for between in range(granules, reserved + 1))
    assert granules == 1 or not tried[granules - 1]


def test_a_hole_is_not_jumped_over() -> None:
    """204 MiB fit and 214 do not, as measured of one of ProFL's steps: 216 is the answer."""
    fitting = {*range(204, 214, 2), *range(216, 248, 2)}
    assert least_budget_bytes(lambda budget: budget >> 20 in fitting, 246 << 20, TOTAL_BYTES) == 216 << 20


def test_large_peaks_are_searched_in_coarser_steps() -> None:
    trials: list[int] = []

    def fits(budget_bytes: int) -> bool:
        trials.append(budget_bytes)
        return budget_bytes >= 8 << 30

    found = least_budget_bytes(fits, 10 << 30, 80 << 30)
    assert found is not None
    assert 8 << 30 <= found <= (8 << 30) + (10 << 30) // 256
    assert len(trials) <= 54


def test_a_reserved_peak_that_fails_is_left_behind() -> None:
    assert least_budget_bytes(lambda budget_bytes: budget_bytes >= 900 << 20, 200 << 20, TOTAL_BYTES) == 900 << 20


@pytest.mark.parametrize("reserved", [7000, 8191, 8192])
def test_the_whole_gpu_is_tried_and_nothing_more(reserved: int) -> None:
    """In steps of 28 or 32 MiB, which do not divide the GPU."""
    total = (8192 << 20) + 512
    tried: list[int] = []

    def fits(budget_bytes: int) -> bool:
        tried.append(budget_bytes)
        return budget_bytes >= total

    assert least_budget_bytes(fits, reserved << 20, total) == total
    assert max(tried) == total


def test_what_never_fits_has_no_least_budget() -> None:
    assert least_budget_bytes(lambda budget_bytes: False, 200 << 20, 1 << 30) is None
