"""How much GPU memory a piece of work took, by the allocator's statistics: cheap enough for every local training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass
class Usage:
    """Filled when the work is over; every field stays None where it ran on a CPU.

    Parameters
    ----------
    peak_requested_bytes, peak_allocated_bytes, peak_reserved_bytes
        The most while it ran, what was there before included; as in `profl.bench.memory.footprint.Footprint`.
    peak_fragmented_bytes
        The most that lay unused in the rest of blocks that PyTorch had divided.
    held_bytes
        Still allocated afterwards, cuBLAS workspaces apart, which PyTorch keeps for the next work.
    """

    peak_requested_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_fragmented_bytes: int | None = None
    held_bytes: int | None = None


PEAK_STATISTICS = {
    "peak_requested_bytes": "requested_bytes.all.peak",
    "peak_allocated_bytes": "allocated_bytes.all.peak",
    "peak_reserved_bytes": "reserved_bytes.all.peak",
    "peak_fragmented_bytes": "inactive_split_bytes.all.peak",
}
"""The peaks of `Usage`, and what PyTorch calls them."""


@contextmanager
def memory_usage(device: torch.device) -> Iterator[Usage]:
    """Yield the `Usage` of the work done meanwhile on ``device`` by this process."""
    usage = Usage()
    if device.type != "cuda":
        yield usage
        return
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    yield usage
    statistics = torch.cuda.memory_stats(device)
    for peak, name in PEAK_STATISTICS.items():
        setattr(usage, peak, statistics[name])
    torch._C._cuda_clearCublasWorkspaces()
    usage.held_bytes = torch.cuda.memory_allocated(device)
