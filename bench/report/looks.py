"""How methods are told apart: order, colours, markers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_rgb

from profl.bench.report.style import GREY

IDEAL = "fedavg"
"""The upper bound that ignores memory: drawn grey and dashed, left out of every contest."""

# Okabe and Ito's colours, which stay apart for colour-blind readers; fixed by name so that a method looks the
# same in every run.
_KNOWN = {
    IDEAL: (GREY, "X"),
    "profl": ("#D55E00", "o"),
    "allsmall": ("#56B4E9", "s"),
    "depthfl": ("#009E73", "^"),
    "exclusive": ("#E69F00", "D"),
    "heterofl": ("#0072B2", "v"),
    "inclusivefl": ("#CC79A7", "P"),
}
_FURTHER = [("#000000", "*"), ("#8C6D00", "<"), ("#5B3A8E", ">"), ("#7A3B2E", "h"), ("#00687A", "p")]


@dataclass(frozen=True)
class Look:
    """How a method is drawn. ``ink`` is its colour, dark enough for text on white."""

    colour: str
    marker: str
    dashes: str

    @property
    def size(self) -> float:
        """Of the marker, in points; the thin ones are drawn larger."""
        return 7.5 if self.marker in "XP*" else 6.0

    @property
    def ink(self) -> tuple[float, float, float]:
        red, green, blue = to_rgb(self.colour)
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        shade = min(1.0, 0.36 / luminance) if luminance else 1.0
        return red * shade, green * shade, blue * shade

    def dot(self, hollow: bool = False) -> dict[str, Any]:
        """Return how matplotlib is to draw a point."""
        face, edge = ("white", self.colour) if hollow else (self.colour, "white")
        return {"marker": self.marker, "ms": self.size, "mfc": face, "mec": edge, "mew": 0.8}

    @property
    def small_dot(self) -> dict[str, Any]:
        """How matplotlib is to draw the points of a curve."""
        return {"marker": self.marker, "ms": self.size - 1, "mec": "white", "mew": 0.5}


def in_order(methods: Sequence[str]) -> list[str]:
    """Sort methods for display: the ideal, ``profl``, then by name."""
    return sorted(set(methods), key=lambda name: (name != IDEAL, name != "profl", name))


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Return a look per method; unknown methods get further colours by their place in the alphabet."""
    strangers = [name for name in in_order(methods) if name not in _KNOWN]
    further = {name: _FURTHER[place % len(_FURTHER)] for place, name in enumerate(strangers)}
    return {name: Look(*(_KNOWN | further)[name], dashes="--" if name == IDEAL else "-") for name in in_order(methods)}
