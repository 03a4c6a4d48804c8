"""Measuring the entries of a survey, each a row of its table as soon as it is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

from profl.bench.errors import in_one_line
from profl.bench.memory.errors import MeasurementFailed
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.probe import Prober
from profl.bench.survey.table import PEAKS, Identity, Row, SharedTable, Table


class Entry(Protocol):
    """What one row of a survey's table measures, and where."""

    @property
    def gpu(self) -> str:
        """As `profl.bench.memory.gpu.profile.resolve` names it."""

    @property
    def identity(self) -> Identity:
        """What its row holds in the columns of `Table.identity`, measured in this environment."""

    def is_met_by(self, row: Row) -> bool:
        """Return whether a row of its identity that did not fail holds all that it measures."""

    def measure(self, prober: Prober) -> Row:
        """Return what its row holds beside identity and seconds.

        Raises
        ------
        MeasurementFailed
            If it cannot be measured.
        GpuUnavailable
            If the GPU cannot be had.
        """


Some = TypeVar("Some", bound=Entry)


def missing(wanted: Sequence[Some], table: Table, path: Path) -> list[Some]:
    """Return the entries that the table at ``path`` lacks, and those that failed, in the same environment.

    Raises
    ------
    InputError
        If ``path`` is no such table.
    """
    known = {table.identity_of(row): row for row in table.read(path) if row["failure"] is None}
    return [entry for entry in wanted if entry.identity not in known or not entry.is_met_by(known[entry.identity])]


def survey(todo: Sequence[Entry], table: Table, path: Path, workers: int, on_row: Callable[[Row], None]) -> None:
    """Measure the entries and put their rows into the table at ``path``, each as soon as it is there.

    An entry that cannot be measured is a row too, without bytes but with the reason. Whoever interrupts this waits
    for what is under way, which is kept.

    Parameters
    ----------
    path
        Where the table lies; rows of other entries in it stay, and those that another process adds meanwhile.
    workers
        GPUs that are measured at a time, each by a warm process of its own.
    on_row
        Told of every new row, one at a time.

    Raises
    ------
    InputError
        If ``path`` is no such table.
    GpuUnavailable
        If a GPU cannot be had.
    """
    rows = SharedTable(table, path)
    if todo:
        rows.add()  # a place where nothing can be written is told before anything is measured
    one_at_a_time, stopped = threading.Lock(), threading.Event()

    def measure_on_one_gpu(mine: Sequence[Entry]) -> None:
        with Prober() as prober:
            for entry in mine:
                if stopped.is_set():
                    return
                row = measured(entry, table, prober)
                with one_at_a_time:
                    rows.add(row)
                    on_row(row)

    by_gpu = [list(mine) for _, mine in groupby(sorted(todo, key=lambda entry: entry.gpu), lambda entry: entry.gpu)]
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done in as_completed([pool.submit(measure_on_one_gpu, mine) for mine in by_gpu]):
                done.result()
        finally:
            stopped.set()


def measured(entry: Entry, table: Table, prober: Prober) -> Row:
    """Return the row of one entry.

    Raises
    ------
    GpuUnavailable
        If the GPU cannot be had.
    """
    row: Row = dict(zip(table.identity, entry.identity, strict=True))
    began = time.perf_counter()
    try:
        row |= entry.measure(prober)
    except MeasurementFailed as error:
        row["failure"] = in_one_line(error)
    return {**row, "seconds": time.perf_counter() - began}


def columns_of(footprint: Footprint) -> Row:
    """Return what a row holds of a footprint."""
    return {
        "device": footprint.environment.device_name,
        **{name: getattr(footprint, name) for name in PEAKS},
        "caveats": "; ".join(footprint.caveats) or None,
    }
