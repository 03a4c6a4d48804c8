"""What a snapshot tells, as tables and lines for a terminal. Every text of the file is shown as it is, no markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from profl.bench.memory.snapshot.replaying import Replayed
from profl.bench.memory.snapshot.summary import UNKNOWN, DeviceSummary, Share


def heading(device: DeviceSummary) -> str:
    """Return the line above everything else."""
    return (
        f"GPU {device.index}: peak requested {in_words(device.peak_requested_bytes)} at {device.when}; "
        f"reserved {in_words(device.peak_reserved_bytes)}"
    )


def tables(device: DeviceSummary) -> Iterator[Table]:
    """Yield what lives at the peak: by phase, by place in the program, by operator, and the largest blocks."""
    yield _share_table("what lives at the peak", "began", device.groups)
    if device.workspaces:
        yield _share_table("of that, workspaces", "known by", device.workspaces)
    yield _share_table("by place in the program", "line of the program, or module", device.places)
    yield _share_table("by operator", "operator, or node of the graph", device.operators)
    blocks = _table("the largest blocks", "MiB", "bytes")
    for name in ("began", "place", "operator"):
        blocks.add_column(name, overflow="fold")
    for block in device.largest_blocks:
        texts = (Text(text) for text in (block.group, block.place, block.operator))
        blocks.add_row(mib(block.bytes), f"{block.bytes:,}", *texts)
    yield blocks


def remarks(device: DeviceSummary) -> Iterator[str]:
    """Yield what came of a replay, and what to know before trusting the numbers."""
    if device.replayed:
        yield _replay_line(device.replayed)
        yield from (f"  {remark}" for remark in device.replayed.remarks)
    yield from (f"careful: {caveat}" for caveat in device.caveats)


def mib(size: int | None) -> str:
    """Return a size as tables show it."""
    return UNKNOWN if size is None else f"{size / 2**20:,.1f}"


def in_words(size: int | None) -> str:
    """Return a size in a sentence."""
    return UNKNOWN if size is None else f"{mib(size)} MiB ({size:,} B)"


def _replay_line(outcome: Replayed) -> str:
    reserved, recorded = outcome.peak_reserved_bytes, outcome.recorded_reserved_bytes
    if reserved is None or recorded is None:
        return "replay: not possible"
    told = f"replay: the model reserves {reserved:,} B, the trace {recorded:,} B"
    if not outcome.is_comparable:
        return f"{told}, which cannot be compared"
    return f"{told}: equal" if reserved == recorded else f"{told}: {reserved - recorded:+,} B"


def _share_table(title: str, corner: str, shares: Sequence[Share]) -> Table:
    table = _table(title, "MiB", "bytes", "blocks")
    table.add_column(corner, overflow="fold")
    for share in shares:
        table.add_row(mib(share.bytes), f"{share.bytes:,}", f"{share.blocks:,}", Text(share.name))
    return table


def _table(title: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
