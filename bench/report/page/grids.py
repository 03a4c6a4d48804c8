"""Tables of a page: what stands in them, apart from how they look."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pandas as pd

from profl.bench.fleet import eligible_counts
from profl.bench.memory.workload import CATEGORIES
from profl.bench.report.accuracy import front_of, points
from profl.bench.report.growth import what_stayed
from profl.bench.report.page.records import Settings
from profl.bench.report.study import Spread, Study
from profl.bench.report.style import IDEAL, in_order, looks, mebibytes
from profl.bench.report.tables import best_methods, memory_entry
from profl.bench.results import peak_column


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Parameters
    ----------
    text, more
        Its main line and the smaller ones below.
    best
        Whether to mark it.
    share
        Length of a bar, 0 to 1; None: no bar.
    quiet
        Whether there is nothing to see in it.
    """

    text: str
    more: tuple[str, ...] = ()
    best: bool = False
    share: float | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Row:
    """One row; ``colour`` is that of its method in the figures."""

    head: str
    entries: Sequence[Entry]
    colour: str = ""


@dataclass(frozen=True)
class Grid:
    """A table with a caption, a heading above every column and groups of rows.

    Parameters
    ----------
    corner
        Heading of the column of row headings.
    groups
        Rows by group; the name of a group may be empty.
    note
        A sentence below; may be empty.
    numbers
        Whether the entries are figures, to be set flush right.
    """

    caption: str
    corner: str
    columns: Sequence[str]
    groups: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    note: str = ""
    numbers: bool = True


def summary(study: Study) -> Grid:
    """Return final accuracy, devices that can train and memory needed, by method and tier."""
    best = best_methods(study)
    rows = []
    for method, look in looks(study.methods).items():
        entries = [_result(study, method, tier, method in best[tier]) for tier in study.tiers]
        rows.append(Row(_name(method), entries, look.colour))
    seeds = f" Mean of {study.seeds} seeds." if study.seeds > 1 else ""
    note = f"★ the best of its tier, {IDEAL} aside. ? unknown.{seeds} Memory: least budget of the dearest trained task."
    caption = "Final test accuracy, share of devices that can train, and memory needed"
    if study.memory_only:
        note = "The most reserved in any round, and what stayed allocated from round to round. ? unknown."
        caption = "Memory reserved, share of devices that can train, and memory held"
    return Grid(caption, "method", _tiers(study), {"": rows}, note)


def _tiers(study: Study) -> list[str]:
    return [study.tier_label(tier) for tier in study.tiers]


def _name(method: str) -> str:
    return f"{method} (ideal)" if method == IDEAL else method


def _result(study: Study, method: str, tier: str, best: bool) -> Entry:
    if study.memory_only:
        first, *more = memory_entry(study, method, tier)
        return Entry(first, tuple(more))
    accuracy = study.figures("final_accuracy")[method, tier]
    if not accuracy.known:
        statuses = sorted(set(study.cells_of(method, tier)["status"])) or ["not run"]
        return Entry("?", (", ".join(statuses),))
    share = study.figures("participation_share")[method, tier]
    needed = study.figures("dearest_trained_budget_bytes")[method, tier]
    more = [f"{percent(share, 0)} of devices", f"{mebibytes(needed.mean)} MiB"]
    if study.idle(method, tier):
        more = ["nobody can train"]
    if accuracy.high > accuracy.low:
        more.insert(0, span(accuracy))
    return Entry(f"{100 * accuracy.mean:.1f} %", tuple(more), best, accuracy.mean)


def percent(share: Spread, digits: int = 1) -> str:
    """Return the mean of a share in percent, ``?`` if unknown."""
    return f"{100 * share.mean:.{digits}f} %" if share.known else "?"


def span(share: Spread) -> str:
    """Return the range of a share over the seeds, in percent."""
    return f"{100 * share.low:.1f} to {100 * share.high:.1f}"


def accuracy_by_tier(study: Study) -> Grid:
    """Return final accuracy by method and tier."""
    return _by_method(study, "final_accuracy", "Final test accuracy by memory tier", 1)


def participation(study: Study) -> Grid:
    """Return the share of devices that can take part, by method and tier."""
    return _by_method(study, "participation_share", "Share of devices that can take part", 0)


def _by_method(study: Study, column: str, caption: str, digits: int) -> Grid:
    found = study.figures(column)
    rows = []
    for method in study.methods:
        spreads = [found[method, tier] for tier in study.tiers]
        entries = [
            Entry(percent(spread, digits), (span(spread),) if spread.high > spread.low else ()) for spread in spreads
        ]
        rows.append(Row(_name(method), entries))
    return Grid(caption, "method", _tiers(study), {"": rows})


def accuracy_by_budget(study: Study) -> Grid:
    """Return accuracy beside the memory needed, by tier."""
    groups = {}
    for tier in study.tiers:
        front = front_of(study, tier)
        groups[study.tier_label(tier, between=" · ")] = [
            Row(
                _name(point.method),
                [
                    Entry(mebibytes(point.x * 2**20)),
                    Entry(f"{point.y:.1f} %"),
                    Entry("yes" if point in front else "no"),
                ],
            )
            for point in points(study, tier)
        ]
    columns = ["memory needed (MiB)", "final test accuracy", "on the Pareto front"]
    return Grid("Final test accuracy against memory needed", "tier, method", columns, groups)


def peak_memory(study: Study) -> Grid:
    """Return what every task holds at its peak by category, in MiB."""
    columns = [*map(peak_column, CATEGORIES), "peak_requested_bytes", "least_budget_bytes"]
    groups = {
        method: [Row(name, [Entry(mebibytes(size(entry, column))) for column in columns]) for name, entry in tasks]
        for method, tasks in by_method(study)
    }
    names = [*CATEGORIES, "peak requested", "least budget"]
    return Grid("Memory at the peak, in MiB", "method, task", names, groups)


def by_method(study: Study) -> list[tuple[str, list[tuple[str, dict[Any, Any]]]]]:
    """Return the tasks of every method with their footprints, methods in display order."""
    prints = study.footprints
    varies = len(prints["batch_size"].unique()) > 1
    found = []
    for method in in_order(prints["method"].tolist()):
        entries = [dict(entry) for entry in prints.loc[prints["method"] == method].to_dict("records")]
        names = [f"{entry['task']}, batch {entry['batch_size']}" if varies else entry["task"] for entry in entries]
        found.append((method, list(zip(names, entries, strict=True))))
    return found


def size(entry: Mapping[Any, Any], column: str) -> float:
    """Return a number of bytes, NaN if it was not measured."""
    value = entry.get(column)
    return math.nan if value is None else float(value)


MOST_ROUNDS = 24
"""Columns of the tables over rounds."""


def learning_curves(study: Study) -> Grid:
    """Return test accuracy by evaluated round: of all of them, or of some evenly spread and the last."""

    def entry(accuracy: float) -> Entry:
        return Entry(percent(Spread(accuracy, accuracy, accuracy)))

    return _over_rounds(study, "test_accuracy", "Test accuracy over the rounds", "evaluated round", entry)


def memory_by_round(study: Study) -> Grid:
    """Return the most reserved for any participant, of all rounds or of some evenly spread and the last."""

    def entry(reserved_bytes: float) -> Entry:
        return Entry(mebibytes(reserved_bytes))

    return _over_rounds(study, "peak_reserved_bytes", "Most reserved for any participant (MiB)", "round", entry)


def _over_rounds(study: Study, column: str, caption: str, kind: str, entry: Callable[[float], Entry]) -> Grid:
    """Return a column of the rounds by tier and method, the mean over the seeds; NaN where there is none."""
    known = study.rounds.dropna(subset=[column])
    rounds = sorted(known["round"].unique())
    every = math.ceil(len(rounds) / MOST_ROUNDS)
    shown = sorted(set(rounds[::-1][: every * MOST_ROUNDS : every])) if rounds else []
    groups = {}
    for tier in study.tiers:
        rows = []
        for method in study.methods:
            cells = study.cells_of(method, tier)["cell"]
            means = known.loc[known["cell"].isin(cells)].groupby("round")[column].mean()
            rows.append(Row(_name(method), [entry(float(means.get(number, math.nan))) for number in shown]))
        groups[study.tier_label(tier, between=" · ")] = rows
    note = f"Every {every}th {kind}; all of them are in rounds.csv." if every > 1 else ""
    return Grid(caption, "tier, method", [f"round {number}" for number in shown], groups, note)


def matrix(study: Study, found: Mapping[str, Sequence[Sequence[int]]]) -> Grid:
    """Return how many devices of every tier can train every task.

    Parameters
    ----------
    study
        Whose tasks and tiers are shown.
    found
        Budgets in bytes by tier, one fleet per seed: see `profl.bench.report.page.records.fleets`.
    """
    tasks = {(method, name): entry for method, entries in by_method(study) for name, entry in entries}
    least = {pair: size(entry, "least_budget_bytes") for pair, entry in tasks.items()}
    known = {str(pair): int(budget) for pair, budget in least.items() if math.isfinite(budget)}
    counts = {
        tier: eligible_counts({str(seed): fleet for seed, fleet in enumerate(found.get(tier, ()))}, known)
        for tier in study.tiers
    }
    groups = {
        method: [
            Row(name, [_count(counts[tier], (method, name), found.get(tier, ())) for tier in study.tiers])
            for name, _ in entries
        ]
        for method, entries in by_method(study)
    }
    sizes = sorted({len(fleet) for tier in found.values() for fleet in tier})
    of = f" of {sizes[0]}" if len(sizes) == 1 else ""
    note = "A device can train a task if its memory is at least the task's least budget. ? unknown." + (
        " Lowest to highest over the seeds." if study.seeds > 1 else ""
    )
    return Grid(f"How many{of} devices can train each task", "method, task", _tiers(study), groups, note)


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
    groups: dict[str, list[Row]] = {}
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
                Row(
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
        group: [Row(name, [Entry(", ".join(several))]) for name, several in names.items()]
        for group, names in values.items()
        if names
    }
    return Grid(caption, "setting", ["value"], groups, numbers=False)


@dataclass(frozen=True)
class Described:
    """A figure for those who do not see it: its title, one sentence, and its numbers."""

    title: str
    sentence: Callable[[Study], str]
    grid: Callable[[Study], Grid]


def _winners(study: Study) -> str:
    accuracy = study.figures("final_accuracy")
    best = best_methods(study)
    named = [
        f"{', '.join(best[tier])} ({percent(accuracy[best[tier][0], tier])}) at {tier}"
        for tier in study.tiers
        if best[tier]
    ]
    return f"Most accurate: {', '.join(named)}." if named else "No result yet."


def _dearest(study: Study) -> str:
    prints = study.footprints.reindex(columns=["method", "task", "peak_requested_bytes"])
    peaks = prints.dropna().sort_values("peak_requested_bytes")
    if peaks.empty:
        return "Nothing measured yet."
    low, high = peaks.iloc[0], peaks.iloc[-1]
    return (
        f"From {mebibytes(low['peak_requested_bytes'])} MiB ({low['method']}, {low['task']})"
        f" to {mebibytes(high['peak_requested_bytes'])} MiB ({high['method']}, {high['task']})."
    )


def _inclusive(study: Study) -> str:
    shares = study.figures("participation_share")
    named = []
    for tier in study.tiers:
        methods = [name for name in study.methods if name != IDEAL and shares[name, tier].mean == 1]
        named.append(f"{', '.join(methods) or 'none'} at {tier}")
    return f"Methods that all devices can take part in, {IDEAL} aside: {'; '.join(named)}."


DESCRIPTIONS = {
    "accuracy_by_tier": Described("Accuracy by memory tier", _winners, accuracy_by_tier),
    "accuracy_by_budget": Described("Accuracy against memory needed", _winners, accuracy_by_budget),
    "peak_memory": Described("Peak memory by task", _dearest, peak_memory),
    "participation": Described("Share of devices that can take part", _inclusive, participation),
    "learning_curves": Described("Accuracy over the rounds", _winners, learning_curves),
    "memory_by_round": Described("Memory over the rounds", what_stayed, memory_by_round),
}
"""Every figure of the report, by its file name."""
