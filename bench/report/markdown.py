"""A run's results as Markdown, to be put into documents as it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from profl.bench.files import write_whole
from profl.bench.report.budgets import budgets_grid
from profl.bench.report.costs import costs_grid
from profl.bench.report.deviations import deviations
from profl.bench.report.differences import differences_grid
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.ranking import best_methods
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.study import Study
from profl.bench.report.tables import best_note


def write_markdown(parts: Sequence[Study], folder: Path) -> Path:
    """Write ``folder/results.md`` and return its path: a section per study of a run."""
    path = folder / "results.md"
    write_whole(path, "\n".join(line for study in parts for line in _section(study)))
    return path


def markdown(grid: Grid) -> Iterator[str]:
    """Yield the lines of a table; the name of a group, if it has one, becomes its first column."""
    grouped = any(grid.groups)
    corner = [*grid.corner.split(", ", 1)] if grouped else [grid.corner]
    yield _row([*corner, *map(_escaped, grid.columns)])
    yield "|" + "---|" * (len(corner) + len(grid.columns))
    for group, rows in grid.groups.items():
        for row in rows:
            entries = [_text(entry, grid.joint) for entry in row.entries]
            yield _row([*([_escaped(group)] if grouped else []), _escaped(row.head), *entries])


def _text(entry: Entry, joint: str) -> str:
    text = _escaped(joint.join([entry.text, *entry.more]))
    return f"**{text}**" if entry.best else text


def _escaped(text: str) -> str:
    """Return a text as Markdown shows it, whatever is in it."""
    marked = re.sub(r"[\\`*_$]|\](?=\()|:(?=\w+:)", r"\\\g<0>", text)
    return marked.replace("&", "&amp;").replace("<", "&lt;")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _section(study: Study) -> Iterator[str]:
    yield f"## {study.training_setting}"
    yield ""
    if study.memory_only:
        yield " ".join(["Nothing was computed: there is no accuracy to compare.", *study.gaps])
        yield ""
        return
    for grid in (table(study) for table in RESULTS.values()):
        if grid.groups:
            yield from (f"{_escaped(grid.caption)}:", "", *markdown(grid), "", grid.explained, "")
    said = deviations(study.bare_methods)
    if said:
        yield "What differs from the published methods:"
        yield ""
        yield from (f"- `{study.called(method)}`: {' '.join(sentences)}" for method, sentences in said.items())
        yield ""


def accuracy_grid(study: Study) -> Grid:
    """Return the score by method and tier, and in brackets the percentage of devices that can train."""
    best = best_methods(study)
    scores, shares = study.spreads(SCORE), study.spreads("participation_share")

    def entry(method: str, tier: str) -> Entry:
        score, share = scores[method, tier], shares[method, tier].percent(0).removesuffix(" %")
        interval = [f"[{score.span}]"] if score.has_interval else []
        able = [f"({share})"] if score.known and method in study.rivals else []
        return Entry(score.percent(), (*interval, *able), best=method in best[tier])

    rows = [GridRow(study.label(method), [entry(method, tier) for tier in study.tiers]) for method in study.methods]
    marks = f" {best_note(study, 'Bold:')}" if study.seeds > 1 else ""
    note = f"In round brackets: percentage of devices that can train. {' '.join(study.notes)}{marks}"
    return Grid(f"{SCORE_NAME.capitalize()}, by memory tier", "method", study.tiers, {"": rows}, note, joint=" ")


RESULTS: Mapping[str, Callable[[Study], Grid]] = {
    "accuracy": accuracy_grid,
    "differences": differences_grid,
    "budgets": budgets_grid,
    "costs": costs_grid,
}
"""The tables of results, by what they are about."""
