"""What stays on the GPU from round to round: nothing, something kept once, or a leak."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

from profl.bench.fleet import format_bytes

HELD = ("most_held_bytes", "held_bytes_per_round", "held_growth_share")
"""The figures of a cell's summary about what its rounds left allocated."""

NOTHING_HELD = "nothing held"


def held_over_rounds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return `HELD` by name; NaN is unknown.

    Parameters
    ----------
    rows
        As ``profl.bench.results`` describes them. Memory begins anew with every ``attempt``, so that only rounds of the
        same one are compared with each other.
    """
    attempts: dict[int | None, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        if row["held_bytes"] is not None:
            attempts[row["attempt"]].append((row["round"], row["held_bytes"]))
    steps = [later - earlier for rounds in attempts.values() for (_, earlier), (_, later) in pairwise(rounds)]
    most_bytes = max((held for rounds in attempts.values() for _, held in rounds), default=math.nan)
    growth_share = mean(step > 0 for step in steps) if steps else math.nan
    return dict(zip(HELD, (most_bytes, _slope(list(attempts.values())), growth_share), strict=True))


def _slope(attempts: Sequence[Sequence[tuple[int, int]]]) -> float:
    """Return the slope of parallel lines through the points of each attempt, by least squares."""
    together = spread = 0.0
    for points in attempts:
        middle, level = mean(number for number, _ in points), mean(held for _, held in points)
        together += sum((number - middle) * (held - level) for number, held in points)
        spread += sum((number - middle) ** 2 for number, _ in points)
    return together / spread if spread else math.nan


def describe_held(most_held_bytes: float, held_bytes_per_round: float, held_growth_share: float) -> str:
    """Say in a few words what `HELD` means."""
    if math.isnan(most_held_bytes):
        return "held: ?"
    if not most_held_bytes:
        return NOTHING_HELD
    amount = f"up to {format_bytes(most_held_bytes)} held"
    if math.isnan(held_growth_share):
        return f"{amount}, growth: ?"
    if not held_growth_share:
        return f"{amount}, not growing"
    return f"{amount}, growing in {100 * held_growth_share:.3g}% of rounds, {held_bytes_per_round:+,.0f} B a round"
