"""A comparison of two measured runs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from profl.bench.memory.comparison.against import Comparison, Pair

LARGEST = 5
"""How many of the parts of the peak that differ are shown."""

_SIZES = 10


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """Yield tables for a terminal: sizes, the largest parts of the peak that differ, the events around a divergence."""
    yield _sizes_table(comparison)
    if comparison.parts:
        yield _parts_table(comparison)
    if comparison.parts is None and (comparison.only or comparison.workspaces):
        yield _only_table(comparison)
    if comparison.divergence is not None:
        yield _events_table(comparison)


def _sizes_table(comparison: Comparison) -> Table:
    table = _table(comparison, "MiB")
    table.add_column("difference, bytes", justify="right")
    outside = {"NVML used": comparison.nvml_used_bytes, "CUDA context": comparison.context_bytes}
    for group, style in ((comparison.categories, None), (comparison.peaks, "bold"), (outside, None)):
        for name, pair in group.items():
            if not comparison.categories and pair == (None, None):  # of a snapshot little is known
                continue
            table.add_row(name, *map(_mib, pair), _change(pair), style=style)
        table.add_section()
    return table


def _parts_table(comparison: Comparison) -> Table:
    parts = comparison.parts or {}
    rest = f", {len(parts) - LARGEST} more" if len(parts) > LARGEST else ""
    table = _table(comparison, "MiB", title=f"what differs most at the peak{rest}")
    table.add_column("difference, bytes", justify="right")
    for name, pair in list(parts.items())[:LARGEST]:
        table.add_row(Text(name), *map(_mib, pair), _change(pair))
    return table


def _only_table(comparison: Comparison) -> Table:
    """Return the blocks that only one of the peaks holds, by size, and all workspaces; where no modules are known."""
    blocks, shared = comparison.only, comparison.shared
    rest = f", {len(blocks) - _SIZES} more sizes" if len(blocks) > _SIZES else ""
    same = f"{shared.total():,} blocks of {sum(size * count for size, count in shared.items()):,} B are the same"
    table = _table(comparison, "bytes", title=f"blocks at the peak whose number differs{rest}; {same}")
    for kind, sizes in (("", list(blocks.items())[:_SIZES]), (" cuBLAS", comparison.workspaces.items())):
        for size, count in sizes:
            table.add_row(f"{size:,}{kind}", f"{count.run} x", f"{count.other} x")
        table.add_section()
    return table


def _events_table(comparison: Comparison) -> Table:
    table = _table(comparison, "event", title="where the events part", justify="left")
    for index, run, other in comparison.around_divergence():
        style = "bold" if index == comparison.divergence else None
        table.add_row(str(index), *(Text(str(event or "(ended)")) for event in (run, other)), style=style)
    return table


def _table(
    comparison: Comparison, corner: str, title: str | None = None, justify: Literal["left", "right"] = "right"
) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(corner, overflow="fold")
    for heading in _headings(comparison):
        table.add_column(Text(heading), justify=justify, overflow="fold")
    return table


def _headings(comparison: Comparison) -> tuple[str, str]:
    run, other = comparison.run.name, comparison.other.name
    return run, other if other != run else f"{other}, other"


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**20:.1f}"


def _change(pair: Pair) -> str:
    return "?" if pair.difference is None else f"{pair.difference:+,}" if pair.difference else "0"
