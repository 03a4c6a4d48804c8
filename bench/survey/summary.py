"""What the table of methods says, by method and model: who needs how much, for which operations, and who takes part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from profl.bench.files import write_whole
from profl.bench.method import KINDS
from profl.bench.registry import method_class, methods
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.markdown import markdown
from profl.bench.survey.methods import PUBLISHED_WIDTHS
from profl.bench.technique import NONE, Technique


class Span(NamedTuple):
    """What a contender's dearest and its cheapest task have in a column; NaN is unknown."""

    dearest: float
    cheapest: float


_DEAREST_BY = {"eligible_devices": "least_budget_bytes"} | {
    column: column for column in ("least_budget_bytes", "operations_share", "uploaded_bytes")
}
"""By which column the dearest task of another is the one that has most; else it is the one of the highest peak."""


@dataclass(frozen=True)
class Setting:
    """What was measured of one batch size on one GPU and is shown together.

    Parameters
    ----------
    gpu, batch_size
        Where, and how many pictures.
    rows
        Rows of the table, with a column ``contender``: the method, and its technique if it has one.
    techniques
        Whether it is of other methods than the reference with techniques, and plainly beside; else of plain training of
        every method, and the reference's techniques.
    """

    gpu: str
    batch_size: int
    rows: pd.DataFrame
    techniques: bool = False

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.gpu.partition(':')[2] or self.gpu}-{self.batch_size}{'-techniques' * self.techniques}"

    @cached_property
    def models(self) -> list[str]:
        """Models in the order of the study, then others."""
        return sorted(self.rows["model"].unique(), key=lambda name: (name not in PUBLISHED_WIDTHS, _place(name), name))

    @cached_property
    def contenders(self) -> list[str]:
        """In display order: by what methods do about memory, then by name, each with its techniques behind it."""
        known = self.rows.drop_duplicates("contender")
        names = zip(known["method"], known["technique"], known["contender"], strict=True)
        ranked = sorted(names, key=lambda name: (_kind_place(name[0]), name[0], name[1] != NONE, name[1]))
        return [contender for _, _, contender in ranked]

    def tasks(self, contender: str, model: str, by: str = "peak_requested_bytes") -> pd.DataFrame:
        """Return a contender's rows of a model, the dearest first."""
        rows = self.rows[(self.rows["contender"] == contender) & (self.rows["model"] == model)]
        return rows.sort_values(by, ascending=False)

    def span(self, contender: str, model: str, column: str) -> Span | None:
        """Return what the dearest and the cheapest task have in a column; None if none was measured."""
        by = _DEAREST_BY.get(column, "peak_requested_bytes")
        values = self.tasks(contender, model, by)[column].astype("float64")
        return Span(values.iloc[0], values.iloc[-1]) if len(values) else None


def _place(model: str) -> int:
    return [*PUBLISHED_WIDTHS, model].index(model)


def kind_of(method: str) -> str:
    """Return what a method does about memory; nothing if it is not installed or does not say."""
    return method_class(method).kind if method in methods() else ""


def _kind_place(method: str) -> int:
    return [*KINDS, kind_of(method)].index(kind_of(method))


def _is_reference(method: str) -> bool:
    return method in methods() and method_class(method).ignores_memory


def settings(table: pd.DataFrame) -> Iterator[Setting]:
    """Yield what is shown of a table of methods, by GPU and batch size; what failed is left out."""
    done = table[table["failure"].isna()]
    names = [
        Technique.parse(technique).label(method)
        for method, technique in zip(done["method"], done["technique"], strict=True)
    ]
    for (gpu, batch_size), rows in done.assign(contender=names).groupby(["gpu", "batch_size"]):
        with_technique = (rows["technique"] != NONE) & ~rows["method"].map(_is_reference).astype(bool)
        if not with_technique.all():
            yield Setting(str(gpu), int(batch_size), rows[~with_technique])
        if with_technique.any():
            beside = pd.Series(zip(rows["method"], rows["model"], strict=True), rows.index)
            yield Setting(str(gpu), int(batch_size), rows[beside.isin({*beside[with_technique]})], techniques=True)


def write_markdown(table: pd.DataFrame, path: Path) -> None:
    """Write the tables of every GPU and batch size."""
    lines = [line for setting in settings(table) for grid in _grids(setting) for line in _lines(grid)]
    write_whole(path, "\n".join(lines))


def _lines(grid: Grid) -> Iterator[str]:
    yield from (f"{grid.caption}:", "", *markdown(grid), "")


def _grids(setting: Setting) -> Iterator[Grid]:
    where = f"{setting.gpu}, batch {setting.batch_size}{', with techniques' * setting.techniques}"
    each, where = f"{where}, from the task with most to that with least", f"{where}, dearest to cheapest task"
    yield _grid(setting, f"Peak requested, MiB, {where}", "peak_requested_bytes", 1 / 2**20, 1)
    yield _grid(setting, f"Less than plain full training at the peak, %, {where}", "peak_requested_reduction", 100, 1)
    yield _grid(setting, f"Operations of a step, % of plain full training, {each}", "operations_share", 100, 1)
    yield _grid(setting, f"Bytes up in a round, MiB, {each}", "uploaded_bytes", 1 / 2**20, 2)
    if setting.rows["least_budget_bytes"].notna().any():
        yield _grid(setting, f"Least budget, MiB, {where}", "least_budget_bytes", 1 / 2**20, 0)
        yield _grid(setting, f"Devices of 100 that hold it, {where}", "eligible_devices", 1, 0)


def _grid(setting: Setting, caption: str, column: str, factor: float, digits: int) -> Grid:
    def entry(contender: str, model: str) -> Entry:
        span = setting.span(contender, model, column)
        if span is None or pd.isna(span.dearest):
            return Entry("")
        ends = [f"{value * factor:z.{digits}f}" for value in span]
        return Entry(" to ".join(dict.fromkeys(ends)))

    rows = [GridRow(name, [entry(name, model) for model in setting.models]) for name in setting.contenders]
    return Grid(caption, "method", setting.models, {"": rows})
