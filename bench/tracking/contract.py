"""What a tool must take to show a sweep: one run for every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Point(NamedTuple):
    """The numbers of a round, by name; none is unknown."""

    step: int
    values: Mapping[str, float]


class Tracker(Protocol):
    """One tool. Whatever it raises ends it alone, and neither the sweep nor other tools.

    A cell is named by its folder, which is the same whenever its sweep goes on.
    """

    name: str
    """As ``--log-to`` has it."""

    def begin(self, cell: str, description: Mapping[str, Any], earlier: Sequence[Point]) -> None:
        """Open the cell's run, or go on with it, and see that it has the rounds so far, each of them once."""

    def round(self, cell: str, point: Point) -> None:
        """Take a round."""

    def end(self, cell: str, summary: Point, error: str | None) -> None:
        """Take what came out, at the last round, and close the run; ``error`` says why there is nothing."""

    def place(self) -> str:
        """Return in a line where the runs are that it was told of, and how to look at them."""

    def close(self) -> None:
        """Close the runs that have not ended, as the sweep is over: it may go on later."""
