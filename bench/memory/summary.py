"""A footprint in a few lines: what a step needs, what for, and what would help."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profl.bench.memory.footprint import Footprint

REMEDIES = {
    "parameters": "a narrower or half-precision network",
    "gradients": "fewer trained parameters, or an optimizer step in backward hooks",
    "optimizer state": "an optimizer that keeps less, such as SGD without momentum",
    "inputs": "smaller batches",
    "activations": "smaller batches, or torch.utils.checkpoint",
    "workspace": "CUBLAS_WORKSPACE_CONFIG (cuBLAS) or other convolutions (cuDNN); it hardly depends on the batch",
    "temporaries": "smaller batches, or operations in place",
}
"""What makes a category smaller."""


def one_line(footprint: Footprint) -> str:
    """Return what a footprint is and its peak, without line breaks."""
    peak = _size(footprint.peak_requested_bytes)
    return f"<Footprint of {footprint.key} on {footprint.environment.device_name}: peak {peak} requested>"


def summary(footprint: Footprint) -> str:
    """Return some ten lines for a person: peaks, the categories of the peak, where it is, and what would help."""
    lines = [f"{footprint.key} on {footprint.environment.device_name}"]
    peaks = {
        "requested": footprint.peak_requested_bytes,
        "allocated": footprint.peak_allocated_bytes,
        "reserved": footprint.peak_reserved_bytes,
        "least budget": footprint.least_budget_bytes,
    }
    told = (f"{_size(size)} {name}" for name, size in peaks.items() if size is not None)
    lines.append("peak " + ", ".join(told) + _where(footprint))
    largest = sorted(footprint.categories_at_peak.items(), key=lambda item: -item[1])
    for category, size in largest:
        if size:
            lines.append(f"  {category:<16}{_size(size):>12}{size / footprint.peak_requested_bytes:>7.0%}")
    dominant = largest[0][0]
    if dominant in REMEDIES:
        lines.append(f"most of it is {dominant}: less with {REMEDIES[dominant]}")
    return "\n".join([*lines, *(f"caveat: {caveat}" for caveat in footprint.caveats)])


def _where(footprint: Footprint) -> str:
    position = footprint.peak_position
    if position is None:
        return ""
    module = f" in {position.module}" if position.module else ""
    operator = f" by {position.operator}" if position.operator else ""
    return f"; in step {position.step}, {position.phase}{module}{operator}"


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
