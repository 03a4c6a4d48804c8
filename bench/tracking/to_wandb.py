"""A sweep in Weights & Biases: a run for every cell, in the project ``profl`` or that of ``WANDB_PROJECT``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from profl.bench.tracking.contract import Point

PROMPT_SECONDS = 10
"""How long a person at the terminal may take to log in; after that, runs are kept offline."""


class WeightsAndBiases:
    """Writes runs as its own settings say (``wandb login``, ``WANDB_MODE=offline``); files go to ``wandb/`` of the run.

    A cell that goes on has the same id, and what its run has already is left out. Offline nobody knows what that is:
    every start then leaves a folder of its own with all rounds so far, of which the last is the one to sync.
    """

    name = "wandb"

    def __init__(self, run: Path) -> None:
        self._run = run.resolve()
        self._open: dict[str, Any] = {}
        self._project_url: str | None = None

    def begin(self, cell: str, description: Mapping[str, Any], earlier: Sequence[Point]) -> None:
        """Open the cell's run, or go on with it."""
        import wandb

        self._run.mkdir(parents=True, exist_ok=True)
        self._open[cell] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "profl"),
            group=self._run.name,
            id=hashlib.sha256(f"{self._run}/{cell}".encode()).hexdigest()[:16],
            name=cell,
            config=dict(description),
            dir=self._run,
            resume="allow",
            reinit="create_new",  # several cells may be running
            settings=wandb.Settings(console="off", silent=True, login_timeout=PROMPT_SECONDS),
        )
        self._project_url = self._open[cell].project_url  # None offline
        for point in earlier:
            self.round(cell, point)

    def round(self, cell: str, point: Point) -> None:
        """Write a round's numbers, unless the run is beyond it."""
        if point.step >= self._open[cell].step:
            self._open[cell].log(dict(point.values), step=point.step)

    def end(self, cell: str, summary: Point, error: str | None) -> None:
        """Write the summary's numbers, or the error, and close the run."""
        run = self._open.pop(cell)
        run.summary.update({**summary.values, **({} if error is None else {"error": error})})
        run.finish(exit_code=0 if error is None else 1)

    def place(self) -> str:
        """Return the project's address, or where runs are kept offline and the command that sends them."""
        if self._project_url:
            return f"at {self._project_url}"
        runs = self._run / "wandb"
        return (
            f"offline in {runs}, sent by: wandb sync {quote(str(runs))}/offline-run-* (of one cell's, the last alone)"
        )

    def close(self) -> None:
        """Close all runs, as interrupted."""
        while self._open:
            self._open.popitem()[1].finish(exit_code=1)
