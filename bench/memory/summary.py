"""A footprint in a few lines: what a step needs, what for, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Summary:
    """A footprint for a person: printed, some ten lines.

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

    title: str
    peaks: Mapping[str, int | None]
    where: str
    categories_at_peak: Mapping[str, int]
    caveats: Sequence[str]

    def __str__(self) -> str:
        shown = (f"  {category:<16}{mebibytes(size):>12}{share:>7.0%}" for category, size, share in self._parts)
        return "\n".join([self.title, self._peaks, *shown, *self._remarks])

    def page(self) -> str:
        """Return the same as HTML for a notebook, with a bar for every category."""
        bar = "display: inline-block; height: 0.8em; background: currentColor; opacity: 0.6; width"
        rows = (
            f'<tr><td style="text-align: left">{escape(category)}</td><td>{mebibytes(size)}</td><td>{share:.0%}</td>'
            f'<td style="text-align: left"><span style="{bar}: {10 * share:.2f}em"></span></td></tr>'
            for category, size, share in self._parts
        )
        remarks = (f"<div>{escape(line)}</div>" for line in self._remarks)
        heading = f"<div><b>{escape(self.title)}</b></div><div>{escape(self._peaks)}</div>"
        return f"<div>{heading}<table>{''.join(rows)}</table>{''.join(remarks)}</div>"

    @property
    def _peaks(self) -> str:
        told = (f"{mebibytes(size)} {name}" for name, size in self.peaks.items() if size is not None)
        return "peak " + ", ".join(told) + (f"; in {self.where}" if self.where else "")

    @property
    def _parts(self) -> list[tuple[str, int, float]]:
        """Category, bytes and share of the peak, largest first; those that hold nothing are left out."""
        whole = sum(self.categories_at_peak.values())
        largest = sorted(self.categories_at_peak.items(), key=lambda item: -item[1])
        return [(category, size, size / whole) for category, size in largest if size]

    @property
    def _remarks(self) -> list[str]:
        """What would help against what dominates, and what to doubt."""
        dominant = next((category for category, _, _ in self._parts), "nothing")
        remedies = [f"most of it is {dominant}: less with {REMEDIES[dominant]}"] if dominant in REMEDIES else []
        return [*remedies, *(f"careful: {caveat}" for caveat in self.caveats)]


def mebibytes(size: int) -> str:
    """Return bytes as MiB to a tenth."""
    return f"{size / 2**20:,.1f} MiB"
