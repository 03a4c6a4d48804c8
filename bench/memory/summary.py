"""A footprint in a few lines: what a step needs, what for, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

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
    parts = _parts(categories_at_peak)
    shown = (f"  {category:<16}{mebibytes(size):>12}{share:>7.0%}" for category, size, share in parts)
    return "\n".join([title, _peaks(peaks, where), *shown, *_remarks(categories_at_peak, caveats)])


def summary_page(
    title: str,
    peaks: Mapping[str, int | None],
    where: str,
    categories_at_peak: Mapping[str, int],
    caveats: Sequence[str],
) -> str:
    """Return the same as HTML for a notebook, with a bar for every category; parameters as of `summary`."""
    bar = "display: inline-block; height: 0.8em; background: currentColor; opacity: 0.6; width"
    rows = (
        f'<tr><td style="text-align: left">{escape(category)}</td><td>{mebibytes(size)}</td><td>{share:.0%}</td>'
        f'<td style="text-align: left"><span style="{bar}: {10 * share:.2f}em"></span></td></tr>'
        for category, size, share in _parts(categories_at_peak)
    )
    remarks = (f"<div>{escape(line)}</div>" for line in _remarks(categories_at_peak, caveats))
    heading = f"<div><b>{escape(title)}</b></div><div>{escape(_peaks(peaks, where))}</div>"
    return f"<div>{heading}<table>{''.join(rows)}</table>{''.join(remarks)}</div>"


def _peaks(peaks: Mapping[str, int | None], where: str) -> str:
    told = (f"{mebibytes(size)} {name}" for name, size in peaks.items() if size is not None)
    return "peak " + ", ".join(told) + (f"; in {where}" if where else "")


def _parts(categories_at_peak: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Return category, bytes and share of the peak, largest first; those that hold nothing are left out."""
    whole = sum(categories_at_peak.values())
    largest = sorted(categories_at_peak.items(), key=lambda item: -item[1])
    return [(category, size, size / whole) for category, size in largest if size]


def _remarks(categories_at_peak: Mapping[str, int], caveats: Sequence[str]) -> list[str]:
    """Return what would help against what dominates, and what to doubt."""
    dominant = max(categories_at_peak, key=lambda category: categories_at_peak[category])
    remedies = [f"most of it is {dominant}: less with {REMEDIES[dominant]}"] if dominant in REMEDIES else []
    return [*remedies, *(f"caveat: {caveat}" for caveat in caveats)]


def mebibytes(size: int) -> str:
    """Return bytes as MiB to a tenth."""
    return f"{size / 2**20:,.1f} MiB"
