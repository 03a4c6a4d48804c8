"""The table of models: its columns, how it lies on disk, and what is read from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from profl.bench.errors import InputError
from profl.bench.files import replacing

IDENTITY = (
    "model",
    "gpu",
    "precision",
    "batch_size",
    "image_size",
    "torch",
    "torchvision",
    "cudnn",
    "allocator_settings",
)
"""What was measured and in which environment: all that decides the bytes, if the GPU is virtual."""

PEAKS = (
    "parameter_bytes",
    "peak_activation_bytes",
    "peak_requested_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "least_budget_bytes",
)
"""Columns that hold bytes, as `profl.bench.memory.footprint.Footprint` defines them."""

COLUMNS = {
    **{name: "Int64" if name.endswith("_size") else "string" for name in IDENTITY},
    "device": "string",
    **dict.fromkeys(PEAKS, "Int64"),
    "seconds": "float64",
    "caveats": "string",
    "failure": "string",
}
"""Columns of the CSV file in their order, and their dtypes. ``seconds`` is how long the measurement took, the search
for the least budget and the start of a process included. ``failure`` is why there are no bytes. What is unknown, or
not there, is empty."""

EntryRow = dict[str, Any]
"""A row by column; a column that is left out is empty."""

Identity = tuple[str | int, ...]
"""What a row holds in the columns of `IDENTITY`."""


def identity_of(row: EntryRow) -> Identity:
    """Return what tells the row from all others."""
    return tuple(row[name] for name in IDENTITY)


def read_table(path: Path) -> list[EntryRow]:
    """Return the rows of the file, none if there is no file; what is empty is None.

    Raises
    ------
    InputError
        If the file holds another table.
    """
    if not path.exists():
        return []
    try:
        table = pd.read_csv(path, dtype=COLUMNS)
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is no table of models ({error}): name another file, or delete it") from None
    if list(table.columns) != list(COLUMNS):
        raise InputError(f"{path} has other columns than a table of models: name another file, or delete it")
    known = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in known.to_dict("records")]


def write_table(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the rows atomically, in an order of their own: equal rows make equal files."""
    with replacing(path) as partial:
        as_frame(rows).sort_values(list(IDENTITY)).to_csv(partial, index=False)


def as_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a frame with all of `COLUMNS`."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COLUMNS)


def errors(table: pd.DataFrame) -> pd.DataFrame:
    """Compare the rows of ``estimate:NAME`` with those of ``virtual:NAME`` that are equal in everything else.

    Parameters
    ----------
    table
        As `as_frame` returns it.

    Returns
    -------
    pandas.DataFrame
        One row for every pair: the identity, with the estimate's ``gpu``, and for every column of `PEAKS` the
        estimate's signed relative error: 0.01 is one percent too much, NaN if either is unknown.
    """
    kind = table["gpu"].str.split(":", n=1, expand=True).reindex(columns=[0, 1])
    pairs = table[kind[0] == "estimate"].assign(board=kind[1])
    measured = table[kind[0] == "virtual"].assign(board=kind[1]).drop(columns="gpu")
    same = ["board", *(name for name in IDENTITY if name != "gpu")]
    pairs = pairs.merge(measured, on=same, suffixes=("", "_measured"))
    relative = {name: pairs[name].astype(float) / pairs[f"{name}_measured"].astype(float) - 1 for name in PEAKS}
    return pairs[list(IDENTITY)].assign(**relative)
