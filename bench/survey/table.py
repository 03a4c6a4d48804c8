"""The table of a survey: its columns, how it lies on disk, and what of it is still missing."""

from __future__ import annotations

import csv
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from profl.bench.errors import InputError, in_one_line
from profl.bench.files import naming, read_bounded, replacing
from profl.bench.results.checksum import FIELD, sealed, unsealed

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

_MOST_BYTES = 2**26
"""Of a file: a hundred times the memory study."""

Row = dict[str, Any]
"""A row by column; a column that is left out is empty."""

Identity = tuple[str | int, ...]
"""What a row holds in the columns of `Table.identity`."""


@dataclass(frozen=True)
class Table:
    """The columns of a survey's CSV file.

    In their order: what was measured, `ENVIRONMENT`, ``device``, `PEAKS`, what else was found out, and ``seconds``,
    ``caveats`` and ``failure``. ``seconds`` is how long the measurement took, the search for the least budget and the
    start of a process included. ``failure`` is why there are no bytes. What is unknown, or not there, is empty. On disk
    every row ends with a checksum, which a table of an earlier version lacks.

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
            If the file holds another table, or one of its rows is damaged.
        """
        if not path.exists():
            return []
        try:
            text = read_bounded(path, _MOST_BYTES).decode()
            lines = list(self._lines(text, path))
            dtypes = {**self.columns, FIELD: "string"}
            table = pd.read_csv(StringIO(text), dtype=dtypes)
        except (csv.Error, ValueError, TypeError, OverflowError) as error:  # no CSV, or numbers that no column holds
            why = in_one_line(error)
            raise InputError(f"{path} is no table of {self.about} ({why}): name another file, or delete it") from None
        if list(table.columns.drop(FIELD, errors="ignore")) != list(self.columns):
            raise InputError(f"{path} has other columns than a table of {self.about}: name another file, or delete it")
        known = table[list(self.columns)].astype(object).where(table.notna(), None)
        rows = [{str(name): value for name, value in row.items()} for row in known.to_dict("records")]
        self._check(rows, lines, path)
        return rows

    def _check(self, rows: Iterable[Row], lines: Iterable[tuple[int, Row]], path: Path) -> None:
        """Refuse rows that are not what was written."""
        seen: dict[Identity, int] = {}
        for row, (number, cells) in zip(rows, lines, strict=True):
            first = seen.setdefault(self.identity_of(row), number)
            try:
                unsealed(cells, self.about)
                if any(value is None for value in self.identity_of(row)):
                    raise ValueError("it does not say what was measured")
                if first != number:
                    raise ValueError(f"it has what line {first} has")
                if row["failure"] is None and not all(self._is_size(row, name) for name in PEAKS):
                    raise ValueError("it lacks bytes")
            except ValueError as error:
                raise _damaged(path, number, str(error)) from None

    @staticmethod
    def _is_size(row: Row, name: str) -> bool:
        return name == "least_budget_bytes" if row[name] is None else row[name] >= 0

    def _lines(self, text: str, path: Path) -> Iterator[tuple[int, Row]]:
        """Yield the lines below the header, as they are written, by their numbers; those of another table end early."""
        lines = csv.reader(StringIO(text), strict=True)
        header = next(lines, [])
        if header not in ([*self.columns], [*self.columns, FIELD]):
            return
        for cells in lines:
            if len(cells) != len(header):
                raise _damaged(path, lines.line_num, f"it has {len(cells)} of {len(header)} columns")
            yield lines.line_num, dict(zip(header, cells, strict=True))

    def write(self, rows: Iterable[Mapping[str, Any]], path: Path) -> None:
        """Write the rows atomically, in an order of their own: equal rows make equal files."""
        text = self.frame(rows).sort_values(list(self.identity)).to_csv(index=False)
        with replacing(path) as partial, open(partial, "w", newline="") as file:
            written = csv.DictWriter(file, [*self.columns, FIELD], lineterminator="\n")
            written.writeheader()
            written.writerows(sealed(cells, self.about) for _, cells in self._lines(text, path))

    def frame(self, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Return the rows as a frame with all of the columns."""
        return pd.DataFrame(list(rows), columns=list(self.columns)).astype(self.columns)


class SharedTable:
    """A table on disk to which several processes may add rows at once.

    Raises
    ------
    InputError
        If the file holds another table, or one of its rows is damaged.
    """

    def __init__(self, table: Table, path: Path) -> None:
        self._table, self._path = table, path
        self._rows: dict[Identity, Row] = {}
        self._known: object = None
        self._catch_up()

    def add(self, *rows: Row) -> None:
        """Write the rows to the file, each in place of one of its identity; raises as the constructor does.

        What was measured stays where measuring more of it failed.
        """
        with _alone_in(self._path.parent):
            self._catch_up()
            for row in rows:
                known = self._rows.get(self._table.identity_of(row))
                if known is None or known.get("failure") or not row.get("failure"):
                    self._rows[self._table.identity_of(row)] = row
            self._table.write(self._rows.values(), self._path)
            self._known = self._file()

    def _catch_up(self) -> None:
        """Read the file if it is not the one that was read or written last, which only another process replaces."""
        if self._path.exists() and self._file() != self._known:
            self._rows = {self._table.identity_of(row): row for row in self._table.read(self._path)}
            self._known = self._file()

    def _file(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_ino, found.st_mtime_ns


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let nobody else who asks for it work in the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            fcntl.flock(held, fcntl.LOCK_EX)  # given back as the folder is closed
        yield
    finally:
        os.close(held)


def _damaged(path: Path, line: int, why: str) -> InputError:
    return InputError(f"{path}, line {line} is damaged ({why}): delete the line to measure it again")


def environment() -> tuple[str, ...]:
    """Return what a row that is measured now holds in the columns of `ENVIRONMENT`."""
    from profl.bench.memory.recording.measurement import allocator_settings

    return *_versions(), allocator_settings()


@cache
def _versions() -> tuple[str, str, str]:
    import torch

    return str(torch.__version__), version("torchvision"), str(torch.backends.cudnn.version())
