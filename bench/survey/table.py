"""The table of a survey: its columns, how it lies on disk, and what of it is still missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from profl.bench.errors import InputError, in_one_line
from profl.bench.files import replacing

ENVIRONMENT = ("torch", "torchvision", "cudnn", "allocator_settings")
"""Columns that say in which environment a row was measured: with what is measured, all that decides the bytes of a
virtual GPU."""

PEAKS = (
    "parameter_bytes",
    "peak_activation_bytes",
    "peak_requested_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "least_budget_bytes",
)
"""Columns that hold bytes, as `profl.bench.memory.footprint.Footprint` defines them."""

Row = dict[str, Any]
"""A row by column; a column that is left out is empty."""

Identity = tuple[str | int, ...]
"""What a row holds in the columns of `Table.identity`."""


@dataclass(frozen=True)
class Table:
    """The columns of a survey's CSV file.

    In their order: what was measured, `ENVIRONMENT`, ``device``, `PEAKS`, what else was found out, and ``seconds``,
    ``caveats`` and ``failure``. ``seconds`` is how long the measurement took, the search for the least budget and the
    start of a process included. ``failure`` is why there are no bytes. What is unknown, or not there, is empty.

    Parameters
    ----------
    about
        What its rows are of, in the plural.
    measured
        Columns that say what was measured, and their dtypes.
    found
        Columns of what was found out beside bytes, and their dtypes.
    """

    about: str
    measured: Mapping[str, str]
    found: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, ...]:
        """Columns that tell a row from all others: what was measured and in which environment."""
        return (*self.measured, *ENVIRONMENT)

    @property
    def columns(self) -> dict[str, str]:
        """All columns in their order, and their dtypes."""
        return {
            **self.measured,
            **dict.fromkeys((*ENVIRONMENT, "device"), "string"),
            **dict.fromkeys(PEAKS, "Int64"),
            **self.found,
            "seconds": "float64",
            "caveats": "string",
            "failure": "string",
        }

    def identity_of(self, row: Row) -> Identity:
        """Return what tells the row from all others."""
        return tuple(row[name] for name in self.identity)

    def read(self, path: Path) -> list[Row]:
        """Return the rows of the file, none if there is no file; what is empty is None.

        Raises
        ------
        InputError
            If the file holds another table.
        """
        if not path.exists():
            return []
        try:
            table = pd.read_csv(path, dtype=self.columns)
        except (ValueError, TypeError, OverflowError) as error:  # no CSV, or numbers that its columns do not hold
            why = in_one_line(error)
            raise InputError(f"{path} is no table of {self.about} ({why}): name another file, or delete it") from None
        if list(table.columns) != list(self.columns):
            raise InputError(f"{path} has other columns than a table of {self.about}: name another file, or delete it")
        known = table.astype(object).where(table.notna(), None)
        return [{str(name): value for name, value in row.items()} for row in known.to_dict("records")]

    def write(self, rows: Iterable[Mapping[str, Any]], path: Path) -> None:
        """Write the rows atomically, in an order of their own: equal rows make equal files."""
        with replacing(path) as partial:
            self.frame(rows).sort_values(list(self.identity)).to_csv(partial, index=False)

    def frame(self, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Return the rows as a frame with all of the columns."""
        return pd.DataFrame(list(rows), columns=list(self.columns)).astype(self.columns)


def environment() -> tuple[str, ...]:
    """Return what a row that is measured now holds in the columns of `ENVIRONMENT`."""
    from profl.bench.memory.recording.measurement import allocator_settings

    return *_versions(), allocator_settings()


@cache
def _versions() -> tuple[str, str, str]:
    import torch

    return str(torch.__version__), version("torchvision"), str(torch.backends.cudnn.version())
