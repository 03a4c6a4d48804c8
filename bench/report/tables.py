"""Tables of a run: tidy files and the closing table of the terminal."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from profl.bench.report.held import held
from profl.bench.report.ranking import best_methods
from profl.bench.report.study import Study, studies
from profl.bench.report.style import mebibytes
from profl.bench.results import Run


def write_tables(run: Run, folder: Path) -> list[Path]:
    """Write ``cells``, ``rounds``, ``footprints`` as CSV and Parquet; the same run gives the same bytes.

    Columns as `profl.bench.results.Run` states them; the counts by task are JSON text, such as ``{"grow 1": 5}``.
    """
    # They differ in their keys from row to row, which no column type holds.
    counts = run.rounds["tasks"].map(lambda value: json.dumps(value, sort_keys=True), na_action="ignore")
    frames = {
        "cells": run.cells.sort_values("cell"),
        "rounds": run.rounds.assign(tasks=counts).sort_values(["cell", "round"]),
        "footprints": run.footprints,
    }
    written = []
    for name, frame in frames.items():
        table, parquet = folder / f"{name}.csv", folder / f"{name}.parquet"
        frame.to_csv(table, index=False, lineterminator="\n")
        frame.to_parquet(parquet, index=False)
        written += [table, parquet]
    return written


def closing_table(run: Run, highlight: str | None = None) -> Group:
    """Return what a run came to, for the terminal: methods and tiers, per model, dataset and GPU.

    Takes and raises what `profl.bench.report.study.studies` does; the highlighted method comes before other rivals.
    """
    return Group(*(_table(study) for study in studies(run, highlight)))


def closing_text(run: Run) -> str:
    """Return ``closing_table`` as plain text, as wide as it needs to be."""
    console = Console(file=io.StringIO(), width=1000, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(closing_table(run))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _table(study: Study) -> Group:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column("method")
    for tier in study.tiers:
        table.add_column(study.tier_label(tier), justify="right")
    best = best_methods(study)
    for method in study.methods:
        entries = [_entry(study, method, tier, method in best[tier]) for tier in study.tiers]
        table.add_row(study.label(method, between="\n"), *entries)
    seeds = f", mean of {study.seeds} seeds (lowest to highest)" if study.seeds > 1 else ""
    key = (
        "From top to bottom: most memory reserved in any round; share of devices that can train;\n"
        "what stayed allocated from round to round.  ? unknown.\n"
        if study.memory_only
        else f"From top to bottom: final test accuracy{seeds};\n"
        "share of devices that can train; least budget of the dearest trained task.\n"
        f"* best of its tier{study.aside(', {}')}.  ? unknown.\n"
    )
    return Group(Text(study.training_setting, style="bold"), table, Text(key))


def memory_entry(study: Study, method: str, tier: str) -> list[str]:
    """Return what a pair came to whose rounds were run for their memory alone: three short texts."""
    if not study.spreads("seconds")[method, tier].known:
        return ["?", ", ".join(sorted(set(study.cells_of(method, tier)["status"])) or ["not run"])]
    if study.idle(method, tier):
        return ["nobody can train"]
    peak, share = (study.spreads(name)[method, tier] for name in ("peak_reserved_bytes", "participation_share"))
    return [f"{mebibytes(peak.high)} MiB", f"{100 * share.mean:.0f}% of devices", held(study, method, tier)]


def _entry(study: Study, method: str, tier: str, best: bool) -> Text:
    if study.memory_only:
        return Text("\n".join(memory_entry(study, method, tier)))
    accuracy = study.spreads("final_accuracy")[method, tier].times(100)
    if not accuracy.known:
        statuses = sorted(set(study.cells_of(method, tier)["status"])) or ["not run"]
        return Text("?\n" + ", ".join(statuses), style="dim")
    share = study.spreads("participation_share")[method, tier].mean
    needed = study.spreads("dearest_trained_budget_bytes")[method, tier].mean
    lines = [f"{accuracy.mean:.1f}%" + ("*" if best else " ")]
    if accuracy.high > accuracy.low:
        lines.append(f"({accuracy.low:.1f} to {accuracy.high:.1f})")
    lines.append(f"{100 * share:.0f}% " if math.isfinite(share) else "? ")
    lines.append("nobody " if study.idle(method, tier) else f"{mebibytes(needed)} MiB " if needed > 0 else "? ")
    text = Text("\n".join(lines))
    text.stylize("bold" if best else "", 0, len(lines[0]))
    return text
