"""What a cell's folder holds, read at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from profl.bench.cell import Cell


@dataclass(frozen=True)
class Record:
    """A cell's files, read once and checked.

    Parameters
    ----------
    name
        Of the cell's folder.
    status
        As of `CellFolder`.
    cell
        What was run.
    environment, footprints, timelines, rounds
        As the files of these names hold them; empty if there is no such file.
    summary
        The final figures; empty unless the cell is done.
    error
        The last line of its last failure; empty unless it failed.
    """

    name: str
    status: str
    cell: Cell
    environment: Mapping[str, Any]
    footprints: list[dict[str, Any]]
    timelines: Mapping[str, Any]
    rounds: list[dict[str, Any]]
    summary: Mapping[str, Any]
    error: str
