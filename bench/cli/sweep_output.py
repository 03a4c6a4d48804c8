"""What ``profl sweep --dry-run`` prints."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from profl.bench.cli.options import tracked

if TYPE_CHECKING:
    from rich.table import Table

    from profl.bench.experiment import Experiment
    from profl.bench.forecast import Forecast
    from profl.bench.memory.process.probe import Prober


def print_forecasts(possible: Sequence[Experiment], prober: Prober, workers: int | None, as_json: bool) -> None:
    """Print what a sweep will take: tables for a person, or one JSON object a line for every cell."""
    from profl.bench.forecast import forecasts, operations_per_second
    from profl.bench.results.json_files import as_json as text
    from profl.bench.terminal import Terminal

    found = list(forecasts(tracked(possible, "measuring"), prober))
    trained = {(one.model, one.cell.recipe.batch_size): one for one in possible if not one.cell.memory_only}
    per_second = {known: operations_per_second(one) for known, one in trained.items()}
    hours = {}
    for one, forecast in zip(possible, found, strict=True):
        speed = per_second.get((one.model, one.cell.recipe.batch_size), math.nan)
        hours[one.cell.folder_name] = (forecast.operations + forecast.testing_operations) / speed / 3600
    if as_json:
        for forecast in found:
            click.echo(text(as_values(forecast, hours[forecast.cell.folder_name])))
        return
    console = Terminal()
    console.print(task_table(found))
    console.print(cell_table(found, hours))
    console.print(_in_all(found, sum(hours.values()), list(per_second.values()), workers), highlight=False)


def _in_all(found: Sequence[Forecast], hours: float, per_second: Sequence[float], workers: int | None) -> str:
    """Say what the whole sweep will take, and on what that is based."""
    operations = f"{len(found)} cells, {sum(one.operations for one in found) / 1e9:,.0f} G operations"
    if not per_second:
        return f"{operations}; nothing is computed, and how long that takes is not known"
    workers = workers or os.cpu_count() or 1
    speeds = " and ".join(f"{speed / 1e9:.3g}" for speed in per_second)
    return (
        f"{operations}: roughly {in_words(hours)} of one worker, {in_words(hours / workers)} with {workers}, at "
        f"{speeds} G operations a second, as steps of the full model ran in one thread just now. Small tasks are "
        "slower by the operation; averaging and measuring come on top. Where training may end a step of a schedule "
        "early (a freezing rule), that is not foreseen: its rounds then go to later steps, which may send and compute "
        "more."
    )


def as_values(one: Forecast, hours: float) -> dict[str, Any]:
    """Return a forecast as one JSON object."""
    cell = one.cell
    return {
        "event": "planned",
        "cell": cell.folder_name,
        "method": cell.method,
        "tier": cell.tier,
        "seed": cell.seed,
        "technique": cell.technique,
        "measured_as": cell.measured_scale,
        "tasks": {
            key: {
                "least_budget_bytes": size,
                "operations_per_example": one.operations_per_example[key],
                "eligible_devices": one.eligible_devices[key],
            }
            for key, size in one.least_budgets.items()
        },
        "participation_share": one.participation_share,
        "operations": one.operations,
        "testing_operations": one.testing_operations,
        "uploaded_bytes": one.uploaded_bytes,
        "downloaded_bytes": one.downloaded_bytes,
        "hours": hours,
    }


def task_table(forecasts: Sequence[Forecast]) -> Table:
    """Return what every task needs, and how many devices of each tier could train it (a range over the seeds)."""
    tiers = list(dict.fromkeys(one.cell.tier for one in forecasts))
    counts: dict[tuple[str, ...], dict[str, list[int]]] = {}
    needs: dict[tuple[str, ...], tuple[int, int]] = {}
    for one in forecasts:
        for task, size in one.least_budgets.items():
            row = (*_setting(one, forecasts), one.cell.method, task)
            needs[row] = size, one.operations_per_example[task]
            counts.setdefault(row, {}).setdefault(one.cell.tier, []).append(one.eligible_devices[task])
    scales = list(dict.fromkeys(filter(None, (one.cell.measured_scale for one in forecasts))))
    of = f" of {', '.join(scales)}" if scales else ""
    title = f"least memory{of} in MiB, million operations for an example, and devices that could train it, by tier"
    table = _table(title, [*_setting_names(forecasts), "method", "task"], ["MiB", "M ops", *tiers])
    for row, (size, operations) in needs.items():
        able = [_range(counts[row][tier]) if tier in counts[row] else "" for tier in tiers]
        table.add_row(*row, f"{size / 2**20:.1f}", f"{operations / 1e6:.2f}", *able)
    return table


def cell_table(forecasts: Sequence[Forecast], hours: Mapping[str, float]) -> Table:
    """Return what a cell will take, by method and tier, in the mean over seeds; ``hours`` of one worker by folder."""
    title = (
        "a cell, mean over seeds: devices that take part, billion operations, MiB sent and received, time of one worker"
    )
    columns = ["devices", "G ops", "MiB sent", "received", "time"]
    table = _table(title, [*_setting_names(forecasts), "method", "tier"], columns)
    cells: dict[tuple[str, ...], list[Forecast]] = {}
    for one in forecasts:
        cells.setdefault((*_setting(one, forecasts), one.cell.method, one.cell.tier), []).append(one)
    for row, ones in cells.items():
        table.add_row(
            *row,
            f"{fmean(one.participation_share for one in ones):.0%}",
            f"{fmean(one.operations for one in ones) / 1e9:,.0f}",
            *(
                _mebibytes(fmean(sizes))
                for sizes in zip(*((one.uploaded_bytes, one.downloaded_bytes) for one in ones), strict=True)
            ),
            in_words(fmean(hours[one.cell.folder_name] for one in ones)),
        )
    return table


def _mebibytes(size: float) -> str:
    return "?" if math.isnan(size) else f"{size / 2**20:,.0f}"


def in_words(hours: float) -> str:
    """Return a time to about two digits in a unit that suits it, ``?`` if unknown."""
    if math.isnan(hours):
        return "?"
    for unit, in_an_hour in (("s", 3600), ("min", 60)):
        if hours * in_an_hour < 100:
            return f"{hours * in_an_hour:.0f} {unit}"
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _setting_names(forecasts: Sequence[Forecast]) -> list[str]:
    """Return what of model, width, dataset and technique the sweep varies."""
    names = ("model", "width", "dataset", "technique")
    return [name for name in names if len({getattr(one.cell, name) for one in forecasts}) > 1]


def _setting(one: Forecast, forecasts: Sequence[Forecast]) -> list[str]:
    return [str(getattr(one.cell, name)) for name in _setting_names(forecasts)]


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
