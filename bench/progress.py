"""How a sweep shows itself: bars on a terminal, plain lines elsewhere, or events for another program."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from profl.bench.cell import Cell
from profl.bench.engine import Outcome
from profl.bench.federation import RoundRow
from profl.bench.fleet import format_bytes
from profl.bench.held import HELD, describe_held
from profl.bench.registry import method_class
from profl.bench.results.json_files import as_json

SILENCE_SECONDS = 30
"""How long a cell may run, where no bars are drawn, before a line says how far it is."""


def _name(cell: Cell) -> str:
    return f"{cell.contender} on {cell.dataset}, {cell.model} width {cell.width}, tier {cell.tier}, seed {cell.seed}"


def _result(cell: Cell, outcome: Outcome) -> str:
    """Say in a few words how a cell ended."""
    if outcome.taken:
        return "another sweep is at it"
    if outcome.summary is None:
        return outcome.error or "?"
    if not cell.memory_only:
        score = f"score {outcome.summary['last_five_accuracy']:.1%}"
        if outcome.summary["participation_share"] > 0:
            return score
        return f"{score} of the untrained network: no task fits any device ('--dry-run' tells what each needs)"
    peak_bytes = outcome.summary["peak_reserved_bytes"]
    if peak_bytes is None:
        return "nobody could train"
    held = (math.nan if outcome.summary[name] is None else outcome.summary[name] for name in HELD)
    ran_out = outcome.summary["out_of_memory_trainings"]
    failed = f", trainings that ran out of memory: {ran_out}" if ran_out else ""
    return f"peak reserved {format_bytes(peak_bytes)}, {describe_held(*held)}{failed}"


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
    verbose
        Whether every measured cell and every round is a line, and not only now and then where no bars are drawn.
    """

    def __init__(self, todo: Sequence[Cell], finished_rounds: int, console: Console, verbose: bool = False) -> None:
        self.console = console
        self.verbose = verbose
        self.failures: list[tuple[Cell, str]] = []
        self.taken: list[Cell] = []
        self._done = 0
        self._running: set[str] = set()
        self._cells = len(todo)
        self._best: tuple[float, Cell] | None = None
        self._told = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._measuring = self._bars.add_task("cells measured", total=len(todo))
        total = sum(cell.recipe.rounds for cell in todo)
        self._rounds = self._bars.add_task("rounds", total=total, completed=finished_rounds)
        self._line = Text(no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._bars, self._line), console=console)

    def __enter__(self) -> SweepProgress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def trained_otherwise(self, differences: Mapping[str, str]) -> None:
        """Say that the run holds cells whose arithmetic was another; what differs, by the names of their folders."""
        what, cells = next(iter(differences.values())), len(differences)
        self.console.print(
            f"{cells} {'cell was' if cells == 1 else 'cells were'} trained by other arithmetic ({what}): rounds are "
            "kept, and the report shows both; to keep them apart, choose another --output",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )

    def measured(self, cell: Cell) -> None:
        """Count a cell whose footprints are known."""
        self._bars.advance(self._measuring)
        self._tell(f"measured {_name(cell)}")

    def round(self, cell: Cell, row: RoundRow) -> None:
        """Count a round."""
        self._running.add(cell.folder_name)
        self._bars.advance(self._rounds)
        self._line.plain = self._standing()
        self._tell(f"round {row['round']} of {cell.recipe.rounds} of {_name(cell)} ({self._standing()})")

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        """Print a line for a cell that is over."""
        self._running.discard(cell.folder_name)
        if outcome.error is not None:
            self.failures.append((cell, outcome.error))
            verdict = Text("failed", "red")
        elif outcome.taken:
            self.taken.append(cell)
            verdict = Text("skipped", "yellow")
        else:
            self._done += 1
            verdict = Text("done", "green")
            self._compare(cell, outcome)
        self._line.plain = self._standing()
        over = self._done + len(self.failures) + len(self.taken)
        line = f" ({over} of {self._cells}) {_name(cell)}: {_result(cell, outcome)}"
        self.console.print(verdict.append(line, ""), highlight=False, soft_wrap=True)

    def _compare(self, cell: Cell, outcome: Outcome) -> None:
        score: float | None = outcome.summary["last_five_accuracy"] if outcome.summary else None
        if score is None or method_class(cell.method).ignores_memory:
            return
        if self._best is None or score > self._best[0]:
            self._best = score, cell

    def _standing(self) -> str:
        """Say how many cells are running, done and failed, and the best of those that obey memory."""
        counts = f"{len(self._running)} running, {self._done} done, {len(self.failures)} failed"
        if self._best is None:
            return counts
        score, cell = self._best
        return f"{counts}; highest score of these {cell.contender} at {cell.tier}, {score:.1%}"

    def _tell(self, text: str) -> None:
        """Write a line where no bar shows that the sweep is alive, now and then; always if that was asked for."""
        silent = not self.console.is_terminal and time.monotonic() - self._told > SILENCE_SECONDS
        if self.verbose or silent:
            self._told = time.monotonic()
            self.console.print(text, highlight=False, soft_wrap=True)


class SweepEvents:
    """Tells another program how a sweep goes on: one JSON object a line on stdout, flushed.

    Every object has ``event`` (``measured``, ``round``, ``finished``, ``failed``, ``skipped`` if another sweep is at
    the cell, or ``trained_otherwise``) and ``cell``, its folder; then a round's row, a finished cell's summary, or the
    ``error``, as ``profl.bench.results`` describes them; or the ``difference`` in arithmetic of earlier rounds.

    When nobody reads any more (``| head``), the sweep ends as on Ctrl-C.
    """

    def __init__(self) -> None:
        self.failures: list[tuple[Cell, str]] = []
        self.taken: list[Cell] = []

    def __enter__(self) -> SweepEvents:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def trained_otherwise(self, differences: Mapping[str, str]) -> None:
        """Write how arithmetic differs from that of cells in the run, by the names of their folders."""
        for name, difference in differences.items():
            self._write("trained_otherwise", name, {"difference": difference})

    def measured(self, cell: Cell) -> None:
        """Write that a cell's footprints are known."""
        self._write("measured", cell.folder_name, {"method": cell.method, "tier": cell.tier, "seed": cell.seed})

    def round(self, cell: Cell, row: RoundRow) -> None:
        """Write a round's row."""
        self._write("round", cell.folder_name, row)

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        """Write a cell's summary, or its error."""
        if outcome.error is not None:
            self.failures.append((cell, outcome.error))
            self._write("failed", cell.folder_name, {"error": outcome.error})
        elif outcome.taken:
            self.taken.append(cell)
            self._write("skipped", cell.folder_name, {})
        else:
            self._write("finished", cell.folder_name, outcome.summary or {})

    def _write(self, event: str, cell: str, values: Mapping[str, Any]) -> None:
        fields: dict[str, Any] = {"event": event, "cell": cell, **values}
        try:
            click.echo(as_json(fields))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is not yet flushed must go somewhere
            raise KeyboardInterrupt from None
