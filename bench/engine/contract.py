"""What an engine tells."""

from __future__ import annotations

from typing import Protocol

from profl.bench.cell import Cell
from profl.bench.engine.job import Outcome
from profl.bench.federation import Row


class Listener(Protocol):
    """Who is told how a sweep goes on."""

    def measured(self, cell: Cell) -> None:
        """The cell's footprints are known."""

    def round(self, cell: Cell, row: Row) -> None:
        """A round is over and on disk."""

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        """A cell is over."""
