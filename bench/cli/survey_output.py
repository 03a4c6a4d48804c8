"""What ``profl survey`` prints: tables of the models and recorders it has measured, and lines beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from profl.bench.technique import NONE

SHOWN = {
    "peak_requested_bytes": "requested",
    "peak_allocated_bytes": "allocated",
    "peak_reserved_bytes": "reserved",
    "least_budget_bytes": "least budget",
}
"""Columns of bytes that are printed, and their headings."""


def recorders_table(title: str, table: pd.DataFrame) -> Table:
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("recorder", no_wrap=True)
    for heading in ("peak in MiB", "error", "error to blocks", "seconds", "CPU step is longer"):
        shown.add_column(heading, justify="right")
    for _, row in table.iterrows():
        shown.add_row(
            row["recorder"],
            _known(row["peak_bytes"], lambda size: f"{size / 2**20:.1f}"),
            _known(row["error_to_requested"], lambda error: f"{error:+.2%}"),
            _known(row["error_to_allocated"], lambda error: f"{error:+.2%}"),
            _known(row["seconds"], lambda seconds: f"{seconds:.2f}"),
            _known(row["cpu_step_seconds"] / row["seconds"], lambda ratio: f"{ratio:.1f} x"),
        )
    return shown


def row_name(row: Mapping[str, Any] | pd.Series) -> str:
    return f"{row['model']} on {row['gpu']}, {row['precision']}"


def task_name(row: Mapping[str, Any] | pd.Series) -> str:
    technique = "" if row["technique"] == NONE else f" with {row['technique']}"
    where = f"{row['model']} on {row['gpu']}, batch {row['batch_size']}"
    return f"{row['method']}{technique}, {row['task']} of {where}"


def print_line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def peaks_table(title: str, table: pd.DataFrame) -> Table:
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("model", "side", "precision"):
        shown.add_column(heading, no_wrap=True)
    for heading in (*SHOWN.values(), "seconds"):
        shown.add_column(heading, justify="right")
    for _, row in table.iterrows():
        sizes = (_known(row[name], lambda size: f"{size / 2**20:.0f}") for name in SHOWN)
        shown.add_row(row["model"], str(row["image_size"]), row["precision"], *sizes, f"{row['seconds']:.1f}")
    return shown


def errors_table(table: pd.DataFrame) -> Table:
    shown = Table(title="estimate against measurement", box=box.SIMPLE_HEAD)
    for heading in ("model", "gpu", "precision"):
        shown.add_column(heading, no_wrap=True)
    for heading in SHOWN.values():
        shown.add_column(heading, justify="right")
    for _, row in table.iterrows():
        relative = (_known(row[name], lambda error: f"{error:+.1%}") for name in SHOWN)
        shown.add_row(row["model"], row["gpu"], row["precision"], *relative)
    return shown


def _known(value: Any, show: Callable[[Any], str]) -> str:
    return "?" if pd.isna(value) else show(value)
