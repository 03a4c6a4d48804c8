"""Tables of a run: tidy files, a page of Markdown, and the closing table of the terminal."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from profl.bench.files import replacing, write_whole
from profl.bench.report.budgets import budgets_frame, budgets_grid
from profl.bench.report.deviations import deviations
from profl.bench.report.differences import differences_frame, differences_grid
from profl.bench.report.grid import Grid, with_sign
from profl.bench.report.held import held
from profl.bench.report.ranking import best_methods
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.sheets import as_csv
from profl.bench.report.spread import INTERVAL
from profl.bench.report.study import Study, studies
from profl.bench.report.style import mebibytes
from profl.bench.report.view import USUAL, View
from profl.bench.results import Run
from profl.bench.terminal import Terminal


def write_tables(run: Run, parts: Sequence[Study], folder: Path) -> list[Path]:
    """Write a run's tables as CSV and Parquet; the same run gives the same bytes.

    ``cells``, ``rounds`` and ``footprints`` have the columns that `profl.bench.results.Run` states; counts by task and
    diagnostics are JSON text, such as ``{"grow 1": 5}``. ``differences`` and ``budgets`` have those of
    `differences_frame` and `budgets_frame` behind the model, width, dataset and GPU.
    """
    frames = {
        "cells": run.cells.sort_values("cell"),
        "rounds": _as_text(run.rounds, "tasks", "diagnostics").sort_values(["cell", "round"]),
        "footprints": run.footprints,
        "differences": _of_studies(parts, differences_frame),
        "budgets": _of_studies(parts, budgets_frame),
    }
    written = []
    for name, frame in frames.items():
        table, parquet = folder / f"{name}.csv", folder / f"{name}.parquet"
        write_whole(table, as_csv(frame))
        with replacing(parquet) as partial:
            frame.to_parquet(partial, index=False)
        written += [table, parquet]
    return written


def _as_text(rounds: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Write dictionaries as JSON: they differ in their keys from row to row, which no column type holds."""

    def text(value: Mapping[str, Any]) -> str:
        return json.dumps(value, sort_keys=True)

    return rounds.assign(**{name: rounds[name].map(text, na_action="ignore") for name in columns})


def _of_studies(parts: Sequence[Study], frame: Callable[[Study], pd.DataFrame]) -> pd.DataFrame:
    tables = []
    for study in parts:
        table = frame(study)
        for place, name in enumerate(("model", "width", "dataset", "gpu")):
            table.insert(place, name, study.cells[name].iloc[0])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def closing_table(run: Run, view: View = USUAL) -> Group:
    """Return what a run came to, for the terminal: methods and tiers, per model, dataset and GPU.

    Takes and raises what `profl.bench.report.study.studies` does; the highlighted method comes before other rivals.
    """
    return Group(*(part for study in studies(run, view) for part in (_table(study), *_comparisons(study))))


def closing_text(run: Run) -> str:
    """Return ``closing_table`` as plain text, as wide as it needs to be."""
    console = Terminal(file=io.StringIO(), width=1000, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(closing_table(run))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _table(study: Study) -> Group:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column("method")
    for tier in study.tiers:
        table.add_column(study.tier_label(tier), justify="right")
    best = best_methods(study)
    shown = list(study.tier_labels)
    for method in study.methods:
        entries = [_entry(study, method, tier, method in best[tier]) for tier in study.tiers]
        table.add_row(study.label(method, between="\n"), *entries)
        shown += [entry.plain for entry in entries]
    interval = f"; its {INTERVAL} over {study.of_seeds}" if study.seeds > 1 else ""
    key = (
        "From top to bottom: most memory reserved in any round; share of devices that can train;\n"
        "what stayed allocated from round to round."
        if study.memory_only
        else f"From top to bottom: {SCORE_NAME}{interval};\n"
        "share of devices that can train; least budget of the dearest trained task.\n" + best_note(study, "*")
    )
    cautions = [Text(sentence, style="yellow") for sentence in (*study.few_tests, *study.out_of_memory)]
    missing = [Text(f"{study.completeness}\n", style="yellow")] if study.completeness else []
    return Group(
        Text(study.training_setting, style="bold"),
        table,
        Text(with_sign(key, "unknown", shown) + "\n"),
        *missing,
        *cautions,
    )


def best_note(study: Study, mark: str) -> str:
    """Return what the mark of the best means; with one seed, why there is none."""
    if study.seeds == 1:
        return study.certainty
    return f"{mark} the highest mean of its tier, and what is not told apart from it{study.aside(' ({})')}."


def _comparisons(study: Study) -> list[Table | Text]:
    """Return differences between methods, their order at equal budgets, and their deviations, if there are any."""
    if study.memory_only:
        return []
    grids = [grid for grid in (differences_grid(study), budgets_grid(study)) if grid.groups]
    said = deviations(study.bare_methods)
    lines = [f"{study.called(method)}: {' '.join(sentences)}" for method, sentences in said.items()]
    listed = [Text("\n".join(["What differs from the published methods:", *lines, ""]))] if lines else []
    shown = [(Text(grid.caption, style="bold"), _printed(grid), Text(grid.explained + "\n")) for grid in grids]
    return [*(part for parts in shown for part in parts), *listed]


def _printed(grid: Grid) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(grid.corner)
    for column in grid.columns:
        table.add_column(column, justify="right" if grid.numbers else "left")
    for group, rows in grid.groups.items():
        if group:
            table.add_row(Text(group, style="bold"))
        for row in rows:
            table.add_row(*map(Text, [row.head, *("\n".join([entry.text, *entry.more]) for entry in row.entries)]))
    return table


def memory_entry(study: Study, method: str, tier: str) -> list[str]:
    """Return what a pair came to whose rounds were run for their memory alone: three short texts."""
    if not study.spreads("seconds")[method, tier].known:
        return ["?", *study.standing(method, tier)]
    if study.idle(method, tier):
        return ["nobody can train"]
    peak_bytes = study.most("peak_reserved_bytes")[method, tier]
    share = study.spreads("participation_share")[method, tier]
    return [f"{mebibytes(peak_bytes)} MiB", f"{100 * share.mean:.0f}% of devices", held(study, method, tier)]


def _entry(study: Study, method: str, tier: str, best: bool) -> Text:
    if study.memory_only:
        return Text("\n".join(memory_entry(study, method, tier)))
    accuracy = study.spreads(SCORE)[method, tier].times(100)
    if not accuracy.known:
        return Text("\n".join(["?", *study.standing(method, tier)]), style="dim")
    share = study.spreads("participation_share")[method, tier].mean
    needed = study.spreads("dearest_trained_budget_bytes")[method, tier].mean
    lines = [f"{accuracy.mean:.1f}%" + ("*" if best else " ")]
    if accuracy.has_interval:
        lines.append(f"{accuracy.low:.1f}–{accuracy.high:.1f} ")
    lines.append(f"{100 * share:.0f}% " if math.isfinite(share) else "? ")
    lines.append("nobody " if study.idle(method, tier) else f"{mebibytes(needed)} MiB " if needed > 0 else "? ")
    text = Text("\n".join(lines))
    text.stylize("bold" if best else "", 0, len(lines[0]))
    return text
