"""A sweep in TensorBoard: a folder of event files for every cell, in ``tensorboard/`` of the run's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from profl.bench.tracking.contract import Point


class TensorBoard:
    """Writes event files. A cell that goes on is written anew, from its rounds on disk, so that none is in it twice."""

    name = "tensorboard"

    def __init__(self, run: Path) -> None:
        self._folder = run / "tensorboard"
        self._open: dict[str, Any] = {}

    def begin(self, cell: str, description: Mapping[str, Any], earlier: Sequence[Point]) -> None:
        """Open the cell's folder, emptied, with what is known so far."""
        from torch.utils.tensorboard import SummaryWriter

        if (self._folder / cell).exists():
            shutil.rmtree(self._folder / cell)
        self._open[cell] = SummaryWriter(str(self._folder / cell))
        text = json.dumps(description, indent=1)
        self._open[cell].add_text("cell", "\n".join(f"    {line}" for line in text.splitlines()))  # Markdown's code
        for point in earlier:
            self.round(cell, point)

    def round(self, cell: str, point: Point) -> None:
        """Write a round's numbers."""
        for name, value in point.values.items():
            self._open[cell].add_scalar(name, value, point.step)
        self._open[cell].flush()

    def end(self, cell: str, summary: Point, error: str | None) -> None:
        """Write the summary's numbers, or the error, and close the files."""
        self.round(cell, summary)
        if error is not None:
            self._open[cell].add_text("error", error, summary.step)
        self._open.pop(cell).close()

    def place(self) -> str:
        """Return where the event files are, and the command that shows them."""
        return f"in {self._folder}, shown by: tensorboard --logdir {quote(str(self._folder))}"

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()
