"""What ``profl measure`` prints: tables, or one JSON object, of the tasks it has measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, TypeVar

from rich import box
from rich.table import Table

from profl.bench.cli.against import print_comparison
from profl.bench.memory.footprint import PEAKS, Footprint
from profl.bench.memory.workload import CATEGORIES
from profl.bench.terminal import Terminal

if TYPE_CHECKING:
    from profl.bench.memory.comparison.against import Comparison
    from profl.bench.memory.comparison.measured_run import MeasuredRun
    from profl.bench.training import TrainingWorkload

T = TypeVar("T")
TASKS_PER_TABLE = 5


@dataclass(frozen=True)
class Result:
    """What was measured of one task, and what was made of it.

    Parameters
    ----------
    workload
        What was measured.
    operations
        Floating-point operations of the step.
    replayed
        Bytes under other allocator settings, by the table's row.
    run, comparison
        With its events, and against another run; None where nobody asked for them.
    """

    workload: TrainingWorkload
    footprint: Footprint
    operations: int
    replayed: Mapping[str, int]
    run: MeasuredRun | None
    comparison: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints of the task."""
        against = {"against": self.comparison.to_dict()} if self.comparison else {}
        footprint = self.footprint.to_dict(attribution=True)
        named = {"method": self.workload.scope, "technique": str(self.workload.technique), "task": self.task}
        return {**named, "operations_per_step": self.operations, **footprint, **self.replayed, **against}

    @property
    def method(self) -> str:
        """Name of the method, with its technique if there is one."""
        return self.workload.technique.label(self.workload.scope)

    @property
    def task(self) -> str:
        """Key of the task."""
        return self.workload.task.key


def print_results(heading: str, results: list[Result]) -> None:
    """Print tables of the footprints, or of what they are compared with, and remarks."""
    console = Terminal()
    console.print(heading, highlight=False)
    for result in results:
        if result.comparison:
            print_comparison(console, f"{result.method}, {result.task}", result.comparison)
    if any(result.replayed or not result.comparison for result in results):
        for table in _footprint_tables(results):
            console.print(table)
    unknown = " ? is unknown." if any(map(_may_be_unknown, results)) else ""
    console.print(f"Categories are those of the requested peak and sum to it exactly.{unknown}", highlight=False)
    for result in results:
        for line in _remarks(result.footprint):
            console.print(f"{result.method}, {result.task}: {line}", highlight=False, markup=False, soft_wrap=True)


def _may_be_unknown(result: Result) -> bool:
    return bool(result.comparison) or None in (getattr(result.footprint, name) for name in PEAKS.values())


def _remarks(footprint: Footprint) -> Iterator[str]:
    """Say where the peak is reached, and what could not be modelled."""
    if footprint.peak_position:
        yield f"peak in {footprint.peak_position}"
    yield from (f"careful: {caveat}" for caveat in footprint.caveats)


def _footprint_tables(results: list[Result]) -> Iterator[Table]:
    """Return tables narrow enough for a terminal: a column per task, a row per category and peak."""
    for method, of_method in groupby(results, key=lambda result: result.method):
        for part in _batched(of_method, TASKS_PER_TABLE):
            table = Table(title=method, box=box.SIMPLE_HEAD, pad_edge=False)
            table.add_column("MiB", no_wrap=True)
            for result in part:
                table.add_column(result.task, justify="right", min_width=8)
            rows = list(_footprint_rows([result.footprint for result in part]))
            rows += [(name, [result.replayed[name] for result in part]) for name in part[0].replayed]
            for name, row in rows:
                cells = ["?" if size is None else f"{size / 2**20:.1f}" for size in row]
                style = None if name in CATEGORIES else "bold"
                table.add_row(name, *cells, style=style, end_section=name == CATEGORIES[-1])
            table.add_section()
            table.add_row("G operations", *(f"{result.operations / 1e9:,.2f}" for result in part))
            yield table


def _batched(entries: Iterable[T], size: int) -> Iterator[list[T]]:
    """Return the entries in lists of ``size``, the last one shorter. Python 3.12 has it as ``itertools.batched``."""
    rest = iter(entries)
    while part := list(islice(rest, size)):
        yield part


def _footprint_rows(footprints: list[Footprint]) -> Iterator[tuple[str, list[int | None]]]:
    for category in CATEGORIES:
        yield category, [footprint.categories_at_peak[category] for footprint in footprints]
    for name, attribute in PEAKS.items():
        yield name, [getattr(footprint, attribute) for footprint in footprints]
