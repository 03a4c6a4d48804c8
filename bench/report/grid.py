"""Tables of a page as values: what stands in them, apart from how they look."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from profl.bench.report.spread import Spread, over_seeds
from profl.bench.report.study import Study

MOST_ROUNDS = 24
"""Columns of the tables over rounds."""


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
class GridRow:
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
        A sentence below; may be empty. `explained` is what stands there.
    numbers
        Whether the entries are figures, to be set flush right.
    joint
        What stands between the lines of an entry that is written in one.
    unknown
        What ``?`` means in it.
    """

    caption: str
    corner: str
    columns: Sequence[str]
    groups: Mapping[str, Sequence[GridRow]] = field(default_factory=dict)
    note: str = ""
    numbers: bool = True
    joint: str = ", "
    unknown: str = "unknown"

    @property
    def explained(self) -> str:
        """The note, and what a ``?`` means where one stands in the table."""
        entries = [entry for rows in self.groups.values() for row in rows for entry in row.entries]
        shown = [*self.columns, *self.groups, *(text for entry in entries for text in (entry.text, *entry.more))]
        return with_sign(self.note, self.unknown, shown)


def with_sign(note: str, unknown: str, shown: Iterable[str]) -> str:
    """Return a note on texts that are shown, with what ``?`` means behind it if one of them has the sign."""
    return " ".join(filter(None, [note, f"? {unknown}." if any("?" in text for text in shown) else ""]))


def by_method(study: Study, column: str, caption: str, digits: int) -> Grid:
    """Return a share of the cells frame by method and tier, in percent with ``digits`` after the point."""
    found = study.spreads(column)
    rows = []
    for method in study.methods:
        spreads = [found[method, tier] for tier in study.tiers]
        entries = [
            Entry(spread.percent(digits), (spread.span,) if spread.high > spread.low else ()) for spread in spreads
        ]
        rows.append(GridRow(study.label(method), entries))
    return Grid(caption, "method", study.tier_labels, {"": rows})


def over_rounds(study: Study, values: pd.Series, caption: str, kind: str, entry: Callable[[Spread], Entry]) -> Grid:
    """Return values of the rounds frame's rows by tier, method and round, over the seeds; unknown where there is none.

    ``kind`` says in the note which rounds have a value.
    """
    known = study.rounds[["cell", "round"]].assign(value=values).dropna()
    rounds = sorted(known["round"].unique())
    every = math.ceil(len(rounds) / MOST_ROUNDS)
    shown = sorted(set(rounds[::-1][: every * MOST_ROUNDS : every])) if rounds else []
    groups = {}
    for tier in study.tiers:
        rows = []
        for method in study.methods:
            cells = study.cells_of(method, tier)["cell"]
            of_round = dict(iter(known.loc[known["cell"].isin(cells)].groupby("round")["value"]))
            spreads = [over_seeds(list(of_round.get(number, ()))) for number in shown]
            rows.append(GridRow(study.label(method), [entry(spread) for spread in spreads]))
        groups[study.tier_label(tier, between=" · ")] = rows
    note = f"Every {every}th {kind}; all of them are in rounds.csv." if every > 1 else ""
    return Grid(caption, "tier, method", [f"round {number}" for number in shown], groups, note)
