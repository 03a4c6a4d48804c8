"""A run read back into frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from profl.bench.cell import Cell
from profl.bench.errors import InputError
from profl.bench.results.folder import cell_folders
from profl.bench.results.record import Record, read_record
from profl.bench.results.schema import CELL_COLUMNS, FOOTPRINT_KEY, ROUND_COLUMNS, peak_column
from profl.bench.results.score import mean_of_last_tests


@dataclass(frozen=True)
class Run:
    """A run read back: three frames, joined by ``cell`` (rounds, footprints) and described above.

    Parameters
    ----------
    cells
        One row per cell, columns ``CELL_COLUMNS``; figures of an unfinished cell are NaN.
    rounds
        One row per cell and round: ``cell``, ``method``, ``tier``, ``tasks`` and ``ROUND_COLUMNS``.
    footprints
        One row per method and task: ``FOOTPRINT_KEY``, the flat fields of ``profl.bench.memory.footprint.Footprint``
        and one column per category at the peak, named by `peak_column`. The same task of several cells appears once.
    records
        What the cells' folders hold, in the order of ``cells``.
    """

    path: Path
    cells: pd.DataFrame
    rounds: pd.DataFrame
    footprints: pd.DataFrame
    records: Sequence[Record]


def read_run(path: Path) -> Run:
    """Read a run's folder into frames.

    Raises
    ------
    InputError
        If the folder is missing, holds no cells, mixes recipes, or one of its files is damaged.
    """
    records = [record for folder in cell_folders(path) if (record := read_record(folder))]
    if not records:
        runs = [str(folder.parent) for folder in sorted(path.glob("*/cells")) if folder.is_dir()]
        where = (
            f"choose one of {', '.join(runs)}" if runs else f"expected {path}/cells/*, as 'profl sweep --output' writes"
        )
        raise InputError(f"{path} holds no results: {where}")
    check_one_recipe(path, [record.cell for record in records])
    cells: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    footprints: list[dict[str, Any]] = []
    for record in records:
        identity = {name: value for name, value in asdict(record.cell).items() if name in CELL_COLUMNS}
        identity["measured_as"] = record.cell.measured_scale
        identity["learning_rate"] = record.cell.recipe.learning_rate
        name, rows = record.name, record.rounds
        figures = {**_score(record), **record.summary}
        cells.append({"cell": name, "status": record.status, **identity, "rounds": len(rows), **figures})
        rounds.extend({"cell": name, "method": identity["method"], "tier": identity["tier"], **row} for row in rows)
        shape = {name: identity[name] for name in ("method", "model", "width", "dataset", "technique")}
        shape |= {"measured_model": record.cell.model, "measured_width": record.cell.width}
        footprints.extend({**shape, **_flat(entry)} for entry in record.footprints)
    return Run(
        path,
        _unknown_as_nan(pd.DataFrame(cells).reindex(columns=list(CELL_COLUMNS))),
        _unknown_as_nan(pd.DataFrame(rounds).reindex(columns=["cell", "method", "tier", "tasks", *ROUND_COLUMNS])),
        pd.DataFrame(footprints, columns=None if footprints else FOOTPRINT_KEY).drop_duplicates(FOOTPRINT_KEY),
        records,
    )


def _score(record: Record) -> dict[str, float]:
    """Return the score of a finished cell from its rounds, as the summary of an earlier version lacks it."""
    tested = [row["test_accuracy"] for row in record.rounds if row["test_accuracy"] is not None]
    return {"last_five_accuracy": mean_of_last_tests(tested)} if record.summary else {}


def _unknown_as_nan(frame: pd.DataFrame) -> pd.DataFrame:
    """Give columns in which nothing is known the dtype of numbers; None would make them columns of objects."""
    return frame.astype({name: float for name in frame if frame[name].isna().all()})


def check_one_recipe(run: Path, cells: Iterable[Cell]) -> None:
    """Make sure that the cells of a run may stand side by side: they differ in axes of the grid alone.

    Methods may have options and learning rates of their own, the same in all of their cells.

    Raises
    ------
    InputError
        Naming what two of them do not share.
    """
    shared: dict[str, Any] = {}
    for cell in cells:
        facts = {
            **asdict(cell.recipe),
            "gpu": cell.gpu,
            "memory_only": cell.memory_only,
            "measured_as": cell.measured_as,
            f"data of {cell.dataset}": cell.data,
        }
        facts[f"learning rate of {cell.method}"] = facts.pop("learning_rate")
        facts[f"options of {cell.method}"] = cell.options
        facts[f"budgets of tier {cell.tier}"] = cell.listed_budgets
        for name, value in facts.items():
            if shared.setdefault(name, value) != value:
                raise InputError(
                    f"{run} would mix cells with {name} = {shared[name]!r} and {value!r}: give each its own --output"
                )


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in entry.items():
        if name == "categories_at_peak":
            flat.update({peak_column(category): size for category, size in value.items()})
        elif not isinstance(value, (dict, list)):
            flat[name] = math.nan if value is None else value
    return flat
