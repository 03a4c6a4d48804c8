"""A number over the seeds: its mean, and how far that mean may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
"""Of every interval that the report shows."""

INTERVAL = f"{100 * CONFIDENCE:.0f} % t-interval"
"""What such an interval is called."""


class Spread(NamedTuple):
    """The mean over the seeds, and the ends of its t-interval: NaN with one seed; all NaN if nothing is known."""

    mean: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is anything to show."""
        return math.isfinite(self.mean)

    @property
    def has_interval(self) -> bool:
        """Whether there were seeds enough for an interval."""
        return math.isfinite(self.low)

    @property
    def ends(self) -> tuple[float, float]:
        """From where to where it reaches: the ends of the interval, the mean twice without one."""
        return (self.low, self.high) if self.has_interval else (self.mean, self.mean)

    @property
    def told_apart(self) -> bool:
        """Of a difference: whether its interval leaves out zero."""
        return self.has_interval and not self.low <= 0 <= self.high

    @property
    def span(self) -> str:
        """The interval of a share, in percent; empty without one."""
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}" if self.has_interval else ""

    def percent(self, digits: int = 1) -> str:
        """Return the mean of a share in percent, ``?`` if unknown."""
        return f"{100 * self.mean:.{digits}f} %" if self.known else "?"

    def times(self, factor: float) -> Spread:
        """Return the same in another unit."""
        return Spread(factor * self.mean, factor * self.low, factor * self.high)


UNKNOWN = Spread(math.nan, math.nan, math.nan)


def over_seeds(values: Sequence[float], share: bool = False) -> Spread:
    """Return the mean of one value per seed and its t-interval, which takes the seeds for draws from a normal law.

    Parameters
    ----------
    values
        One per seed.
    share
        Whether they cannot leave 0 to 1: the interval is then cut there.
    """
    count = len(values)
    if not count:
        return UNKNOWN
    mean = float(np.mean(values))
    if count == 1:
        return Spread(mean, math.nan, math.nan)
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2) * np.std(values, ddof=1)) / math.sqrt(count)
    low, high = mean - reach, mean + reach
    return Spread(mean, max(low, 0.0), min(high, 1.0)) if share else Spread(mean, low, high)
