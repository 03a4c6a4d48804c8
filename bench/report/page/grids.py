"""The tables that a page has beside those of its figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from profl.bench.fleet import eligible_counts
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.page.records import Settings
from profl.bench.report.ranking import best_methods
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.study import Study, bytes_of
from profl.bench.report.style import mebibytes
from profl.bench.report.tables import best_note, memory_entry


def summary(study: Study) -> Grid:
    """Return score, best and final accuracy, devices that can train and memory needed, by method and tier."""
    best = best_methods(study)
    rows = []
    for method, look in study.looks.items():
        entries = [_result(study, method, tier, method in best[tier]) for tier in study.tiers]
        rows.append(GridRow(study.label(method), entries, look.colour))
    note = (
        f"{best_note(study, '★')} Best and final: of any test, and of the last one."
        " Memory: least budget of the dearest trained task."
    )
    caption = f"{SCORE_NAME.capitalize()}; best and final; share of devices that can train; memory needed"
    if study.memory_only:
        note = "The most reserved in any round, and what stayed allocated from round to round."
        caption = "Memory reserved, share of devices that can train, and memory held"
    return Grid(caption, "method", study.tier_labels, {"": rows}, note)


def _result(study: Study, method: str, tier: str, best: bool) -> Entry:
    if study.memory_only:
        first, *more = memory_entry(study, method, tier)
        return Entry(first, tuple(more))
    accuracy = study.spreads(SCORE)[method, tier]
    if not accuracy.known:
        return Entry("?", tuple(study.standing(method, tier)))
    share = study.spreads("participation_share")[method, tier]
    needed = study.spreads("dearest_trained_budget_bytes")[method, tier]
    others = [f"{name} {study.spreads(f'{name}_accuracy')[method, tier].percent()}" for name in ("best", "final")]
    able = [f"{share.percent(0)} of devices", f"{mebibytes(needed.mean)} MiB"]
    more = [accuracy.span, *others, *(["nobody can train"] if study.idle(method, tier) else able)]
    return Entry(accuracy.percent(), tuple(filter(None, more)), best, accuracy.mean)


def matrix(study: Study, found: Mapping[str, Sequence[Sequence[int]]]) -> Grid:
    """Return how many devices of every tier can train every task.

    Parameters
    ----------
    study
        Whose tasks and tiers are shown.
    found
        Budgets in bytes by tier, one fleet per seed: see `profl.bench.report.page.records.fleets`.
    """
    tasks = {(method, name): entry for method, entries in study.tasks for name, entry in entries}
    least = {pair: bytes_of(entry, "least_budget_bytes") for pair, entry in tasks.items()}
    known = {str(pair): int(budget) for pair, budget in least.items() if math.isfinite(budget)}
    counts = {
        tier: eligible_counts({str(seed): fleet for seed, fleet in enumerate(found.get(tier, ()))}, known)
        for tier in study.tiers
    }
    groups = {
        study.called(method): [
            GridRow(name, [_count(counts[tier], (method, name), found.get(tier, ())) for tier in study.tiers])
            for name, _ in entries
        ]
        for method, entries in study.tasks
    }
    sizes = sorted({len(fleet) for tier in found.values() for fleet in tier})
    of = f" of {sizes[0]}" if len(sizes) == 1 else ""
    note = "A device can train a task if its memory is at least the task's least budget." + (
        " Lowest to highest over the seeds; the bar is of their mean." if study.seeds > 1 else ""
    )
    return Grid(f"How many{of} devices can train each task", "method, task", study.tier_labels, groups, note)


def _count(counts: pd.DataFrame, task: tuple[str, str], found: Sequence[Sequence[int]]) -> Entry:
    if str(task) not in counts or not found:
        return Entry("?")
    able = counts[str(task)]
    text = f"{able.min()}" if able.min() == able.max() else f"{able.min()} to {able.max()}"
    return Entry(text, share=float(able.sum()) / sum(map(len, found)))


def largest_blocks(footprints: Iterable[tuple[str, Mapping[str, Any]]]) -> Grid:
    """Return the largest blocks alive at every task's peak, and who made them where that is known.

    Parameters
    ----------
    footprints
        Method, and an entry of ``footprints.json``; the same task may come several times.
    """
    groups: dict[str, list[GridRow]] = {}
    blocks = [
        (f"{method}: {entry['task']}", place, block)
        for method, entry in footprints
        for place, block in enumerate(entry.get("largest_blocks", ()), start=1)
    ]
    named = [name for name in ("module", "operator") if any(block.get(name) for _, _, block in blocks)]
    for task, entries in groupby(blocks, key=lambda block: block[0]):
        groups.setdefault(
            task,
            [
                GridRow(
                    f"{place}.",
                    [
                        Entry(mebibytes(block["bytes"])),
                        *(Entry(str(block.get(name) or "?")) for name in ("category", *named)),
                    ],
                )
                for _, place, block in entries
            ],
        )
    return Grid("Largest blocks alive at the peak", "task", ["MiB", "category", *named], groups)


def settings(caption: str, values: Settings) -> Grid:
    """Return the values of settings; one that varies within the run shows all of its values."""
    groups = {
        group: [GridRow(name, [Entry(", ".join(several))]) for name, several in names.items()]
        for group, names in values.items()
        if names
    }
    return Grid(caption, "setting", ["value"], groups, numbers=False)
