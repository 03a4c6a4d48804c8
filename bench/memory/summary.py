"""A footprint in a few lines: what a step needs, what for, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def summary(
    title: str,
    peaks: Mapping[str, int | None],
    where: str,
    categories_at_peak: Mapping[str, int],
    caveats: Sequence[str],
) -> str:
    """Return some ten lines for a person.

    Parameters
    ----------
    title
        What was measured, and on what.
    peaks
        Bytes by name, unknown ones left out.
    where
        The allocation that reached the peak; may be empty.
    categories_at_peak
        Bytes by category.
    caveats
        What to doubt.
    """
    told = (f"{mebibytes(size)} {name}" for name, size in peaks.items() if size is not None)
    lines = [title, "peak " + ", ".join(told) + (f"; in {where}" if where else "")]
    largest = sorted(categories_at_peak.items(), key=lambda item: -item[1])
    whole = sum(categories_at_peak.values())
    for category, size in largest:
        if size:
            lines.append(f"  {category:<16}{mebibytes(size):>12}{size / whole:>7.0%}")
    dominant = largest[0][0]
    if dominant in REMEDIES:
        lines.append(f"most of it is {dominant}: less with {REMEDIES[dominant]}")
    return "\n".join([*lines, *(f"caveat: {caveat}" for caveat in caveats)])


def mebibytes(size: int) -> str:
    """Return bytes as MiB to a tenth."""
    return f"{size / 2**20:,.1f} MiB"
