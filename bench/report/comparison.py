"""Runs side by side: what differs between them, in surroundings, memory and accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from profl.bench.errors import InputError
from profl.bench.files import replacing
from profl.bench.fleet import format_bytes
from profl.bench.memory.workload import CATEGORIES
from profl.bench.report.contenders import chosen
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.looks import NAMESAKE, in_order
from profl.bench.report.page.records import environments, recipes
from profl.bench.report.page.writing import KINDS, data_uri, render
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.sheets import as_csv
from profl.bench.report.study import ideals_of
from profl.bench.report.style import mebibytes
from profl.bench.results import FOOTPRINT_KEY, Run, peak_column
from profl.bench.validation import printable

QUANTITIES = {"peak requested": "peak_requested_bytes", "least budget": "least_budget_bytes"}
"""What is compared of a footprint, and its column."""

_PLACE = ["model", "width", "dataset", "gpu", "technique"]


def write_comparison(runs: Sequence[Run], path: Path, highlight: str | None = None) -> Path:
    """Write runs side by side as one HTML file that needs no other, and return its path; the first is the base.

    Parameters
    ----------
    runs
        At least two.
    path
        The file; its folder is made.
    highlight
        The method that comes before other rivals; by default `profl.bench.report.looks.NAMESAKE`, if it was run.

    Raises
    ------
    InputError
        If there are fewer than two runs, one comes twice, or no such method was run.
    """
    names = run_names(runs)
    methods = sorted({method for run in runs for method in run.cells["method"]})
    stands_out = chosen({name: name for name in methods}, highlight, "highlighted") if highlight else NAMESAKE
    memory, accuracy = footprint_differences(runs), accuracy_differences(runs)
    settings = setting_differences(runs)
    changed = differ(settings, names)
    unshared = {
        "memory": _nothing_shared(memory, names, "measured task"),
        "accuracy": _nothing_shared(accuracy, names, "finished pair of method and tier"),
    }
    tables = {
        "settings.csv": ("surroundings and recipes, equal ones too", settings),
        "footprints.csv": ("every task and quantity, equal ones too, in bytes", memory),
        "accuracy.csv": ("every method and tier", accuracy),
    }
    text = render(
        "comparison.html",
        names=names,
        paths=[str(run.path) for run in runs],
        warnings=[warning for warning in unshared.values() if warning],
        facts=[
            *_memory_facts(memory, names),
            *_accuracy_facts(accuracy, names),
            f"{changed.sum()} of {len(settings)} settings differ.",
        ],
        settings=_settings_grid("Surroundings and recipes that differ", settings.loc[changed], names),
        same=_settings_grid("The same in every run", settings.loc[~changed], names[:1]),
        memory=_memory_grid(memory, names),
        accuracy=_accuracy_grid(accuracy, names, runs, stands_out),
        unshared=unshared,
        downloads=[
            (name, what, data_uri(as_csv(frame).encode(), KINDS["csv"])) for name, (what, frame) in tables.items()
        ],
    )
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return short names that tell runs apart: the folders' names if they differ, else their paths.

    Raises
    ------
    InputError
        If there are fewer than two runs, or one comes twice.
    """
    if len(runs) < 2:
        raise InputError("one run compares with nothing: name at least two, the base first")
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise InputError(f"{twice} is named twice: compare different runs")
    names = [printable(path.name) for path in paths]
    return names if len(set(names)) == len(names) else [printable(str(path)) for path in paths]


def differ(table: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Return which rows differ between the columns ``names``; what all lack does not. Bool, shape (rows,)."""
    first, *others = (table[name] for name in names)
    unequal = pd.Series(False, table.index)
    for other in others:
        unequal |= ~(first.eq(other) | (first.isna() & other.isna()))
    return unequal


def setting_differences(runs: Sequence[Run]) -> pd.DataFrame:
    """Return where every run ran, where its memory was measured, and how it trained.

    Returns
    -------
    DataFrame
        One row per setting: ``group``, ``setting`` and a column of texts per run, NaN if the run lacks it.
    """
    columns = {}
    for name, run in zip(run_names(runs), runs, strict=True):
        found = environments(run.records) | recipes(run.records)
        columns[name] = pd.Series(
            {
                (group, setting): ", ".join(sorted(values))
                for group, known in found.items()
                for setting, values in known.items()
            }
        )
    return pd.DataFrame(columns).rename_axis(index=["group", "setting"]).reset_index()


def footprint_differences(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the memory of every task in every run, the largest difference in bytes first.

    Tasks are told apart by `FOOTPRINT_KEY`; without the GPU if every run has just one, so that GPUs compare.

    Returns
    -------
    DataFrame
        One row per task and quantity: the key, ``quantity``, a column per run (bytes, NaN if the run lacks it) and
        per further run ``NAME difference`` (bytes) and ``NAME change`` (share of the first run's).
    """
    names = run_names(runs)
    key = _comparable(FOOTPRINT_KEY, [run.footprints for run in runs])
    columns = {**QUANTITIES, **{category: peak_column(category) for category in CATEGORIES}}
    frames = []
    for name, run in zip(names, runs, strict=True):
        prints = run.footprints.reindex(columns=[*dict.fromkeys([*FOOTPRINT_KEY, *columns.values()])])
        long = prints.rename(columns={column: quantity for quantity, column in columns.items()})
        frames.append(long.melt(key, list(columns), "quantity", name).set_index([*key, "quantity"])[name].astype(float))
    return _with_differences(pd.concat(frames, axis=1), names)


def accuracy_differences(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the score by method and tier in every run, mean over the finished seeds.

    Returns
    -------
    DataFrame
        One row per method and tier (and model, width, dataset, technique; GPU if a run has several): as
        `footprint_differences`, accuracies from 0 to 1, the largest difference first.
    """
    names = run_names(runs)
    key = _comparable(["method", "tier", *_PLACE], [run.cells for run in runs])
    frames = [
        run.cells.groupby(key, dropna=False)[SCORE].mean().astype(float).rename(name)
        for name, run in zip(names, runs, strict=True)
    ]
    return _with_differences(pd.concat(frames, axis=1), names)


def _comparable(key: Sequence[str], frames: Sequence[pd.DataFrame]) -> list[str]:
    """Leave the GPU out of a key if every run has just one: then runs on two GPUs have the same keys."""
    several = any(len(frame["gpu"].unique()) > 1 for frame in frames)
    return [column for column in key if column != "gpu" or several]


def _with_differences(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Add differences from the first run and sort by them: what only some runs have, then the largest."""
    first, *others = names
    for name in others:
        table[f"{name} difference"] = table[name] - table[first]
        table[f"{name} change"] = table[f"{name} difference"] / table[first].where(table[first] != 0)
    largest = table[[f"{name} difference" for name in others]].abs().max(axis=1, skipna=False).fillna(math.inf)
    largest = largest.where(differ(table, names), 0)
    return table.loc[largest.sort_values(ascending=False, kind="stable").index].reset_index()


# what stands in the page


def _settings_grid(caption: str, table: pd.DataFrame, names: Sequence[str]) -> Grid:
    groups = {
        str(group): [
            GridRow(row["setting"], [Entry("missing" if pd.isna(row[name]) else row[name]) for name in names])
            for _, row in rows.iterrows()
        ]
        for group, rows in table.groupby("group", sort=False)
    }
    return Grid(caption, "setting", names if len(names) > 1 else ["value"], groups, numbers=False)


def _memory_facts(memory: pd.DataFrame, names: Sequence[str]) -> list[str]:
    peaks = memory.loc[memory["quantity"] == "peak requested"]
    missing = peaks[list(names)].isna().any(axis=1)
    if missing.all():
        return []
    shared = peaks.loc[~missing]
    facts = [f"{differ(shared, names).sum()} of {len(shared)} shared tasks need other memory at their peak"]
    for name in names[1:]:
        changed = [row for row in peaks.to_dict("records") if abs(row[f"{name} difference"]) > 0]
        if changed:
            most = max(changed, key=lambda row: abs(row[f"{name} difference"]))
            facts[0] += f"; most in {name}: {most['method']}, {most['task']}, {_change(most, name)}"
    facts[0] += "."
    if missing.any():
        facts.append(f"Not measured in every run: {missing.sum()} of {len(peaks)} tasks.")
    return facts


def _accuracy_facts(accuracy: pd.DataFrame, names: Sequence[str]) -> list[str]:
    known = accuracy.dropna(subset=list(names))
    if known.empty:
        return []
    return [f"Accuracy differs in {differ(known, names).sum()} of {len(known)} pairs of method and tier that all ran."]


def _nothing_shared(table: pd.DataFrame, names: Sequence[str], what: str) -> str:
    """Say that no row has a value in every run, and in which columns of the key the runs have nothing in common."""
    if not table[list(names)].isna().any(axis=1).all():
        return ""
    key = list(table.columns[: table.columns.get_loc(names[0])].drop("quantity", errors="ignore"))
    values = {column: [set(table.loc[table[name].notna(), column]) for name in names] for column in key}
    apart = {column: several for column, several in values.items() if all(several) and not set.intersection(*several)}
    texts = [
        f"{column.replace('_', ' ')} ({' against '.join(', '.join(sorted(map(str, one))) for one in several)})"
        for column, several in apart.items()
    ]
    return f"The runs share no {what}" + (f": they have no {' and no '.join(texts)} in common." if texts else ".")


def _change(row: Mapping[Any, Any], name: str) -> str:
    """Return a difference in bytes, as ``'+1.5 MiB (+3.2 %)'``."""
    difference, change = row[f"{name} difference"], row[f"{name} change"]
    share = f" ({change:+.1%})".replace("%", " %") if math.isfinite(change) else ""
    return f"{'+' if difference > 0 else ''}{format_bytes(difference)}{share}"


def _memory_grid(memory: pd.DataFrame, names: Sequence[str]) -> Grid:
    """Return the tasks that differ, the largest difference of a peak or a least budget first."""
    key = list(memory.columns[: memory.columns.get_loc("quantity")])
    varying = [column for column in key if column in ("method", "task") or len(memory[column].unique()) > 1]
    first = memory["quantity"].isin(QUANTITIES)
    rows = []
    for _, task in pd.concat([memory.loc[first], memory.loc[~first]]).groupby(key, sort=False, dropna=False):
        if not differ(task, names).any():
            continue
        found = {row["quantity"]: row for row in task.to_dict("records")}
        entries = []
        for quantity in QUANTITIES:
            row = found[quantity]
            entries.append(Entry(mebibytes(row[names[0]])))
            entries += [Entry(mebibytes(row[name]), _below(row, name)) for name in names[1:]]
        for name in names[1:]:
            moved = [category for category in CATEGORIES if abs(found[category][f"{name} difference"]) > 0]
            lines = tuple(f"{category} {_change(found[category], name)}" for category in moved)
            entries.append(Entry("" if lines else "–", lines))
        rows.append(GridRow(", ".join(str(task[column].iloc[0]) for column in varying), entries))
    columns = [f"{quantity}\n{name}" for quantity in QUANTITIES for name in names]
    columns += [f"at the peak\n{name}" for name in names[1:]]
    note = f"MiB; below it the difference from {names[0]}. ? not measured in this run. Equal tasks are left out."
    return Grid(
        "Tasks whose memory differs, the largest difference first", ", ".join(varying), columns, {"": rows}, note
    )


def _below(row: Mapping[Any, Any], name: str) -> tuple[str, ...]:
    difference = row[f"{name} difference"]
    return () if math.isnan(difference) else ("the same",) if difference == 0 else (_change(row, name),)


def _accuracy_grid(accuracy: pd.DataFrame, names: Sequence[str], runs: Sequence[Run], highlight: str) -> Grid:
    """Return the difference in points and every run's accuracy, by method and tier."""
    cells = pd.concat([run.cells for run in runs])
    tiers = list(cells.groupby("tier")["mean_device_budget_bytes"].mean().sort_values(kind="stable").index)
    place = [column for column in _PLACE if column in accuracy and len(accuracy[column].unique()) > 1]
    groups = {}
    for values, rows in accuracy.groupby(place) if place else [((), accuracy)]:
        by_pair = rows.set_index(["method", "tier"])
        groups[", ".join(map(str, values))] = [
            GridRow(
                method,
                [
                    _accuracy(by_pair.loc[(method, tier)], names)
                    if (method, tier) in by_pair.index
                    else Entry("–", quiet=True)
                    for tier in tiers
                ],
            )
            for method in in_order(rows["method"], ideals_of(cells), highlight)
        ]
    note = f"Points of difference from {names[0]}, then the accuracy of every run. – not run."
    caption = f"{SCORE_NAME.capitalize()}, by method and tier"
    return Grid(caption, "method", tiers, groups, note, unknown="no result")


def _accuracy(row: Mapping[Any, Any], names: Sequence[str]) -> Entry:
    differences = [100 * row[f"{name} difference"] for name in names[1:]]
    text = ", ".join("?" if math.isnan(points) else f"{points:+.1f}" if points else "same" for points in differences)
    found = [f"{name} {100 * row[name]:.1f} %" if not math.isnan(row[name]) else f"{name} ?" for name in names]
    return Entry(text, tuple(found), quiet=not any(differences))
