"""Between a sweep and its tools: hands events on, and keeps the tools' troubles from the sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from profl.bench.cell import Cell
from profl.bench.contained import contained
from profl.bench.engine import Outcome
from profl.bench.errors import InputError, in_one_line
from profl.bench.federation import RoundRow
from profl.bench.results.folder import folder_of
from profl.bench.sweep import SweepListener
from profl.bench.tracking.contract import Point, Tracker
from profl.bench.tracking.values import numbers


class Tracking:
    """Hears how a sweep goes on, tells the one who shows it, then the tools; a context manager around ``run_sweep``.

    A tool that fails is told of in one line and hears no more.

    Parameters
    ----------
    shown
        Who shows the sweep.
    trackers
        The tools.
    run
        Folder of the run, where the rounds of earlier starts are.
    console
        Where to say that a tool failed.
    """

    def __init__(self, shown: SweepListener, trackers: Sequence[Tracker], run: Path, console: Console) -> None:
        self._shown = shown
        self._trackers = list(trackers)
        self._run = run
        self._console = console
        self._last: dict[str, int] = {}  # the number of the last round, by cell that has begun

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *exception: object) -> None:
        self._tell("close")

    def places(self) -> list[str]:
        """Return in a line for each tool that was told of a cell, and has not failed, where that is to be seen."""
        return [f"{tracker.name}: {tracker.place()}" for tracker in self._trackers if self._last]

    def measured(self, cell: Cell) -> None:
        """Hand on that a cell's footprints are known."""
        self._shown.measured(cell)

    def round(self, cell: Cell, row: RoundRow) -> None:
        """Hand on a round."""
        self._shown.round(cell, row)
        self._begin(cell, row["round"])
        self._last[cell.folder_name] = row["round"]
        self._tell("round", cell.folder_name, _point(row))

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        """Hand on how a cell ended; what another sweep is at is its business."""
        self._shown.finished(cell, outcome)
        if not outcome.taken:
            self._begin(cell, math.inf)
            summary = Point(self._last.get(cell.folder_name, 0), numbers({"summary": outcome.summary or {}}))
            self._tell("end", cell.folder_name, summary, outcome.error)

    def _begin(self, cell: Cell, before: float) -> None:
        """Begin a cell that has not begun, with the rounds on disk before one."""
        if self._trackers and cell.folder_name not in self._last:
            try:
                rows = folder_of(cell, self._run).rounds()
            except (InputError, OSError) as error:
                for tracker in list(self._trackers):
                    self._drop(tracker, error)
                return
            earlier = [_point(row) for row in rows if row["round"] < before]
            self._last[cell.folder_name] = max((point.step for point in earlier), default=0)
            self._tell("begin", cell.folder_name, cell.to_dict(), earlier)

    def _tell(self, what: str, *told: Any) -> None:
        for tracker in list(self._trackers):
            try:
                with contained(f"--log-to {tracker.name}"):
                    getattr(tracker, what)(*told)
            except Exception as error:  # what a library raises is its own affair
                self._drop(tracker, error)

    def _drop(self, tracker: Tracker, error: Exception) -> None:
        """Tell a tool nothing more, and say so."""
        self._trackers.remove(tracker)
        why = f"{type(error).__name__}: {in_one_line(error)}"
        self._console.print(
            f"note: nothing more goes to {tracker.name}, the sweep goes on ({why})",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


def _point(row: Any) -> Point:
    return Point(row["round"], numbers({name: value for name, value in row.items() if name != "round"}))
