"""Scores far below all others: an axis that reached down to them would press the others together."""

from __future__ import annotations

import math
from collections.abc import Sequence

FAR, MANY = 2.0, 4
"""Scores that lie this many times the span of at least so many others below those stand at the end of the axis."""


def lowest_shown(scores: Sequence[float]) -> float:
    """Return the lowest score that gets a place on the axis: of all, unless few lie far below many others."""
    rising = sorted(set(scores))
    for place in range(len(rising) - MANY, 0, -1):
        if rising[place] - rising[place - 1] > FAR * (rising[-1] - rising[place]):
            return rising[place]
    return min(scores, default=math.nan)
