"""How to run the same again: command lines and configurations."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from profl.bench.cell import Cell
from profl.bench.config import GRID
from profl.bench.fleet import UNLIMITED
from profl.bench.results import Record
from profl.bench.technique import NONE


def configurations(records: Sequence[Record]) -> dict[str, str]:
    """Return the run as ``profl sweep --config`` reads it: TOML by file name, one per GPU, data folder and recipe.

    A grid is the product of its axes: where the run holds only a part of it, the sweep runs more.
    """

    def shared(cell: Cell) -> str:
        scale = None if cell.measured_as is None else asdict(cell.measured_as)
        rated = {**asdict(cell.recipe), "learning_rate": None}  # methods have rates of their own
        return json.dumps([cell.gpu, cell.data, scale, rated], sort_keys=True)

    cells = sorted((record.cell for record in records), key=shared)
    texts = [_configuration(list(alike)) for _, alike in groupby(cells, key=shared)]
    names = [f"study-{number}" for number in range(1, len(texts) + 1)] if len(texts) > 1 else ["study"]
    return {f"{name}.toml": text for name, text in zip(names, texts, strict=True)}


def _configuration(cells: Sequence[Cell]) -> str:
    first = cells[0]
    grid = {axis: list(dict.fromkeys(getattr(cell, axis) for cell in cells)) for axis in GRID}
    # What ignores memory runs in no tier of the grid.
    limited = {cell.method for cell in cells if cell.tier != UNLIMITED}
    grid["tier"] = list(dict.fromkeys(cell.tier for cell in cells if cell.method in limited)) or [UNLIMITED]
    if grid["technique"] == [NONE]:
        del grid["technique"]
    options = {f"options.{cell.method}": cell.options for cell in cells}
    rates = {cell.method: cell.recipe.learning_rate for cell in cells}
    apart = {"learning_rates": rates if len(set(rates.values())) > 1 else {}}
    scale = {} if first.measured_as is None else asdict(first.measured_as)
    measured_as = {name: value for name, value in scale.items() if value is not None}
    unusual = {"data": first.data, "memory_only": first.memory_only}
    lines = _assignments({"gpu": first.gpu, **{name: value for name, value in unusual.items() if value}})
    for table, values in {
        "measured_as": measured_as,
        "grid": grid,
        "recipe": asdict(first.recipe),
        **apart,
        **options,
    }.items():
        if values:
            lines += ["", f"[{table}]", *_assignments(values)]
    return "\n".join(lines) + "\n"


def _assignments(values: Mapping[str, Any]) -> list[str]:
    """Return lines of TOML; its numbers, texts and lists are written as JSON's."""
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]


def commands(run: Path, names: Sequence[str]) -> list[str]:
    """Return the command lines that run configurations again beside ``run``, draw the report and compare."""
    old, new = shlex.quote(str(run)), shlex.quote(f"{run}-again")
    sweeps = [f"profl sweep --config {name} --output {new}" for name in names]
    return [*sweeps, f"profl report {old}", f"profl report {old} {new}"]
