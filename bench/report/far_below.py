"""Scores far below all others: an axis that reached down to them would press the others together."""

from __future__ import annotations

import math
from collections.abc import Iterable

from profl.bench.report.spread import Spread

APART, TIMES, ONE_OF = 0.25, 2.0, 4
"""Below all others by more than this share and this many times the span of the others; at most one of so many."""


def lowest_shown(spreads: Iterable[Spread]) -> float:
    """Return the lowest mean that gets a place on an axis of shares: of all that are known, unless few lie far below.

    Few: at most one of `ONE_OF`, whose intervals all end below where those of the others begin.
    """
    rising = sorted((spread for spread in spreads if spread.known), key=lambda spread: spread.mean)
    for place in range(len(rising) // ONE_OF, 0, -1):
        below, others = rising[:place], rising[place:]
        gap, span = others[0].mean - below[-1].mean, others[-1].mean - others[0].mean
        apart = max(spread.ends[1] for spread in below) < min(spread.ends[0] for spread in others)
        if apart and gap > max(APART, TIMES * span):
            return others[0].mean
    return rising[0].mean if rising else math.nan
