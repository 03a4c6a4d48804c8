"""The score: the mean of the last tests, as a single test of a network in training is luck."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

LAST_TESTS = 5
"""Tests that count."""


def mean_of_last_tests(accuracies: Sequence[float]) -> float:
    """Return the mean of the last `LAST_TESTS` test accuracies, of all if there are fewer; NaN if there are none."""
    return fmean(accuracies[-LAST_TESTS:]) if len(accuracies) else math.nan
