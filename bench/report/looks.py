"""How methods are told apart: order, colours, markers. Nothing here knows a method by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from matplotlib.colors import to_rgb

from profl.bench.config import read_config
from profl.bench.errors import InputError, choose, nearest
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


def highlighted(methods: Iterable[str], chosen: str | None = None) -> str:
    """Return the method that is to stand out: the chosen one, else `NAMESAKE`, which a run may lack.

    Raises
    ------
    InputError
        If the chosen one is not among ``methods``.
    """
    return chosen_method(methods, chosen, "highlighted") or NAMESAKE


def chosen_method(methods: Iterable[str], chosen: str | None, what: str) -> str | None:
    """Return the method that a reader chose to have ``highlighted``, say; None if nobody chose.

    Raises
    ------
    InputError
        If it is not among ``methods``.
    """
    known = sorted(set(methods))
    if chosen is not None and chosen not in known:
        there = choose(nearest(chosen, known), ", ".join(known))
        raise InputError(f"method '{chosen}' was not run, so it cannot be {what}: {there}")
    return chosen


def in_order(methods: Iterable[str], ideals: Collection[str], highlight: str) -> list[str]:
    """Sort methods for display: ideals, the highlighted one, then the others, by name."""
    return sorted(set(methods), key=lambda name: (name not in ideals, name != highlight, name))


def looks(methods: Iterable[str], ideals: Collection[str]) -> dict[str, Look]:
    """Return a look per method, dashed if it is an ideal.

    Methods that the default sweep lacks get further colours by their place in the alphabet; ideals among them greys.
    """
    names = list(methods)
    found = dict(zip(_default_methods(), _FIRST, strict=False))
    strangers = sorted(set(names) - set(found))
    for palette, alike in (
        (_FURTHER, [name for name in strangers if name not in ideals]),
        (_FURTHER_IDEALS, [name for name in strangers if name in ideals]),
    ):
        found |= {name: palette[place % len(palette)] for place, name in enumerate(alike)}
    return {name: Look(*found[name], dashes="--" if name in ideals else "-") for name in names}


@cache
def _default_methods() -> tuple[str, ...]:
    return tuple(read_config(preset("default")).grid.method)
