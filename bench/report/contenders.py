"""What is compared in a run: its methods, each with the technique that it was run with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from profl.bench.errors import InputError, choose, nearest
from profl.bench.plugins import installed
from profl.bench.results import Run
from profl.bench.technique import NONE


def contenders(run: Run) -> dict[str, str]:
    """Return the contenders of a run by every name they go by: ``fedavg with checkpoint``, ``fedavg+checkpoint``."""
    cells = [record.cell for record in run.records]
    written = {f"{cell.method}+{cell.technique}": cell.contender for cell in cells if cell.technique != NONE}
    return {**written, **{cell.contender: cell.contender for cell in cells}}


def chosen(names: Mapping[str, str], name: str, what: str) -> str:
    """Return the contender that a reader wants to have ``highlighted``, say.

    Raises
    ------
    InputError
        If there is none of this name, with the nearest one.
    """
    if name not in names:
        known = sorted(set(names.values()))
        remedy = choose(nearest(name, names), ", ".join(known))
        if is_installed(name):
            raise InputError(f"method '{name}' was not run, so it cannot be {what}: {remedy}")
        raise InputError(f"unknown method '{name}', which cannot be {what}: {remedy}")
    return names[name]


def is_installed(name: str) -> bool:
    """Return whether a name is that of an installed method, alone or with a technique, be it that it was not run."""
    return re.split(r"\+| with ", name, maxsplit=1)[0] in installed("profl.methods")


def only(run: Run, methods: Sequence[str]) -> Run:
    """Return a run as if it were of these contenders alone; whole if none is named.

    Raises
    ------
    InputError
        If one was not run.
    """
    if not methods:
        return run
    names = contenders(run)
    shown = {chosen(names, name, "shown") for name in methods}
    records = [record for record in run.records if record.cell.contender in shown]
    cells = {record.name for record in records}
    pairs = {(record.cell.method, record.cell.technique) for record in records}
    prints = run.footprints
    here = [pair in pairs for pair in zip(prints["method"], prints["technique"], strict=True)]
    return replace(
        run,
        cells=run.cells.loc[run.cells["cell"].isin(cells)].reset_index(drop=True),
        rounds=run.rounds.loc[run.rounds["cell"].isin(cells)].reset_index(drop=True),
        footprints=prints.loc[here],
        records=records,
    )
