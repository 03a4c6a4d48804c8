"""What a page shows beyond the frames of a run: recipes, environments, fleets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pandas as pd

from profl.bench.errors import InputError
from profl.bench.fleet import UNLIMITED, format_bytes
from profl.bench.results import Record

Settings = dict[str, dict[str, list[str]]]
"""Every value that a setting has in a run, by group and name."""


def environments(records: Iterable[Record]) -> Settings:
    """Return where the cells ran and where their memory was measured."""
    values: Settings = {}
    for record in records:
        for environment in record.environments:
            _add(values, "training", environment)
        for entry in record.footprints:
            _add(values, "memory", entry.get("environment", {}))
    return values


def recipes(records: Iterable[Record]) -> Settings:
    """Return how the cells were trained: the recipe, and the options of each method."""
    values: Settings = {}
    cells = [record.cell for record in records]
    tuned = len({cell.recipe.learning_rate for cell in cells}) > 1
    for cell in cells:
        recipe = asdict(cell.recipe)
        if tuned:
            recipe[f"learning rate of {cell.method}"] = recipe.pop("learning_rate")
        _add(values, "recipe", recipe)
        if cell.measured_scale:
            _add(values, "recipe", {"memory measured as": cell.measured_scale})
        _add(values, f"options of {cell.method}", cell.options)
    return values


def _add(values: Settings, group: str, found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        known = values.setdefault(group, {}).setdefault(name.replace("_", " "), [])
        if (text := _told(name, value)) not in known:
            known.append(text)


def _told(name: str, value: Any) -> str:
    """Return a value as people write it: sizes with their unit, switches as yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value:,} ({format_bytes(value)})"
    return str(value)


def fleets(records: Iterable[Record], cells: pd.DataFrame) -> dict[str, list[list[int]]]:
    """Return the devices' budgets in bytes by tier, one fleet per seed; none as long as no cell is done.

    Parameters
    ----------
    records
        Of the run.
    cells
        Rows of the run's cells frame: one model, dataset and GPU.
    """
    full = cells["full_model_least_budget_bytes"].max()
    found: dict[str, dict[int, list[int]]] = defaultdict(dict)
    here = set(cells["cell"])
    for record in records:
        cell = record.cell
        if record.name in here and cell.tier != UNLIMITED and pd.notna(full):
            with suppress(InputError):  # the file of a tier may be gone
                found[cell.tier][cell.seed] = cell.budgets(int(full))
    return {tier: list(by_seed.values()) for tier, by_seed in found.items() if by_seed}
