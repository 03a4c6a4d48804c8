"""How methods are told apart: order, colours, markers. Nothing here knows a method by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from matplotlib.colors import to_rgb

from profl.bench.config import read_config
from profl.bench.presets import preset
from profl.bench.report.style import GREY

NAMESAKE = __name__.partition(".")[0]
"""The method that this package is named after, as it is what the suite is about: highlighted unless another is."""

# Okabe and Ito's colours, which stay apart for colour-blind readers. The default sweep's methods have the first ones,
# in its order, so that they look the same in every run.
_FIRST = [
    (GREY, "X"),
    ("#D55E00", "o"),
    ("#E69F00", "D"),
    ("#56B4E9", "s"),
    ("#0072B2", "v"),
    ("#009E73", "^"),
    ("#CC79A7", "P"),
]
# Eighteen more: no eye tells so many colours apart, so that figures of many methods name their points and lines, too.
_FURTHER = [
    ("#000000", "*"),
    ("#8C6D00", "<"),
    ("#5B3A8E", ">"),
    ("#7A3B2E", "h"),
    ("#00687A", "p"),
    ("#E5384F", "H"),
    ("#76B041", "8"),
    ("#B08FD8", "o"),
    ("#3D5AFE", "D"),
    ("#F78FB3", "s"),
    ("#2E4A1F", "v"),
    ("#B07D4F", "^"),
    ("#9E005D", "P"),
    ("#4DB6AC", "X"),
    ("#C0CA33", "*"),
    ("#1B2A6B", "<"),
    ("#FF8A65", ">"),
    ("#90A4AE", "h"),
]
_FURTHER_IDEALS = [("#A0A0A0", "d"), ("#454545", "8")]


@dataclass(frozen=True)
class Look:
    """How a method is drawn. ``ink`` is its colour, dark enough for text on white."""

    colour: str
    marker: str
    dashes: str

    @property
    def size(self) -> float:
        """Of the marker, in points; the thin ones are drawn larger."""
        return 7.5 if self.marker in "XP*d" else 6.0

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


def in_order(methods: Iterable[str], ideals: Collection[str], highlight: str, first: Sequence[str] = ()) -> list[str]:
    """Sort methods for display: those that are to be first, then ideals, the highlighted one, the others, by name."""

    def place(name: str) -> tuple[int, bool, bool, str]:
        rank = first.index(name) if name in first else len(first)
        return rank, name not in ideals, name != highlight, name

    return sorted(set(methods), key=place)


def looks(methods: Iterable[str], ideals: Collection[str], colours: Mapping[str, str] | None = None) -> dict[str, Look]:
    """Return a look per method, dashed if it is an ideal.

    Methods that the default sweep lacks get further colours by their place in the alphabet; ideals among them greys.
    ``colours`` come before either.
    """
    names = list(methods)
    found = dict(zip(_default_methods(), _FIRST, strict=False))
    strangers = sorted(set(names) - set(found))
    for palette, alike in (
        (_FURTHER, [name for name in strangers if name not in ideals]),
        (_FURTHER_IDEALS, [name for name in strangers if name in ideals]),
    ):
        found |= {name: palette[place % len(palette)] for place, name in enumerate(alike)}
    own = colours or {}
    found |= {name: (own[name], found[name][1]) for name in names if name in own}
    return {name: Look(*found[name], dashes="--" if name in ideals else "-") for name in names}


@cache
def _default_methods() -> tuple[str, ...]:
    return tuple(read_config(preset("default")).grid.method)
