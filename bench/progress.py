"""How a sweep shows itself: bars with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bench.cell import Cell
from bench.federation import Row
from bench.sweep import Outcome


def _name(cell: Cell) -> str:
    return f"{cell.method} on {cell.dataset}, {cell.model} width {cell.width}, tier {cell.tier}, seed {cell.seed}"


class SweepProgress:
    """Tells a person how a sweep goes on; a context manager around ``run_sweep``.

    Parameters
    ----------
    todo
        The cells of the sweep that are not done.
    finished_rounds
        Rounds of them that lie on disk already.
    console
        Where to write; bars are drawn only if it is a terminal.
    """

    def __init__(self, todo: Sequence[Cell], finished_rounds: int, console: Console) -> None:
        self.console = console
        self.failures: list[tuple[Cell, str]] = []
        self._over = 0
        self._cells = len(todo)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._measuring = self._bars.add_task("cells measured", total=len(todo))
        total = sum(cell.recipe.rounds for cell in todo)
        self._rounds = self._bars.add_task("rounds", total=total, completed=finished_rounds)

    def __enter__(self) -> SweepProgress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def measured(self, cell: Cell) -> None:
        """Count a cell whose footprints are known."""
        self._bars.advance(self._measuring)

    def round(self, cell: Cell, row: Row) -> None:
        """Count a round."""
        self._bars.update(self._rounds, advance=1, description=f"rounds ({cell.method} at {cell.tier})")

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        """Print a line for a cell that is over."""
        self._over += 1
        if outcome.error is not None:
            self.failures.append((cell, outcome.error))
            verdict, result = Text("failed", "red"), outcome.error
        else:
            verdict, result = Text("done", "green"), f"accuracy {outcome.final_accuracy:.1%}"
        line = f" ({self._over} of {self._cells}) {_name(cell)}: {result}"
        self.console.print(verdict.append(line, ""), highlight=False, soft_wrap=True)
