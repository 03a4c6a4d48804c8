"""What training costs, as an axis for curves and as a budget: rounds, operations, bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from profl.bench.errors import unknown

_POWERS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """One way to count what training costs.

    Parameters
    ----------
    name
        As a reader asks for it.
    quantity
        What is counted, for the axis.
    noun
        The same behind a number; may be empty.
    columns
        The columns of the rounds frame whose sum a round costs; none: a round costs one.
    base, units
        Names of units from 1 on, each ``base`` times the one before; the name may be empty.
    """

    name: str
    quantity: str
    noun: str
    columns: tuple[str, ...] = ()
    base: int = 1000
    units: tuple[str, ...] = ("",)

    def spent(self, rounds: pd.DataFrame) -> pd.Series:
        """Return what every cell had spent by the end of each of its rounds, which are in order; NaN if not counted."""
        if self.columns:
            costs = rounds[list(self.columns)].astype(float).sum(axis=1, skipna=False)
        else:
            costs = pd.Series(1.0, rounds.index)
        return costs.groupby(rounds["cell"]).cumsum(skipna=False)

    def unit(self, most: float) -> tuple[float, str]:
        """Return the largest unit not above ``most``, and its name."""
        step = 0
        while step + 1 < len(self.units) and most >= self.base ** (step + 1):
            step += 1
        return float(self.base**step), self.units[step]

    def label(self, unit: str) -> str:
        """Return the name of the axis, counted in ``unit``."""
        return f"{self.quantity} ({unit})" if unit else self.quantity

    def told(self, amount: float) -> str:
        """Return an amount as a text, such as ``1.25 × 10¹² operations``; ``?`` if unknown."""
        if not math.isfinite(amount):
            return "?"
        size, unit = self.unit(amount)
        return " ".join(filter(None, [f"{amount / size:.4g}", unit, self.noun]))


_THOUSANDS = ("", *("× 10" + str(power).translate(_POWERS) for power in range(3, 25, 3)))
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")

AXES = {
    axis.name: axis
    for axis in (
        Axis("rounds", "round", "rounds"),
        Axis("operations", "operations of local training", "operations", ("operations",), 1000, _THOUSANDS),
        Axis("bytes", "sent and received", "", ("uploaded_bytes", "downloaded_bytes"), 1024, _BINARY),
    )
}
"""By name, in the order in which the report goes through them."""


def axis_named(name: str) -> Axis:
    """Return one of `AXES`.

    Raises
    ------
    InputError
        If there is none of this name.
    """
    if name not in AXES:
        unknown("axis", name, AXES)
    return AXES[name]
