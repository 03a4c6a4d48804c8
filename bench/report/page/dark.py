"""The colours of figures on a dark card: what tells methods apart keeps its hue, what is ink or paper is turned over.

Worked out in OKLab, whose distances are about those that the eye sees. Source: Ottosson, "A perceptual color space for
image processing", 2020.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray

CARD = "#191919"
"""What figures lie on in the dark."""

GREYEST = 0.02
"""Chroma below which a colour is a grey."""

DARKEST_GREY, LIGHTEST_GREY = "#454545", "#A0A0A0"
"""Of methods, which keep their order of lightness as coloured ones do; other greys are ink, rules and paper."""

_LOWEST, _KNEE = 0.52, 0.64  # lightness that black would have, and from which on colours stay as they are
_INK = 0.95  # lightness of what is black on paper

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

_MENTIONED = re.compile(r"(fill|stroke)(?:: |=\")(#[0-9a-f]{6})")


def in_the_dark(colour: str) -> str:
    """Return the colour, as ``#rrggbb``, that stands for one of a white page on the dark card."""
    lightness, green_red, blue_yellow = oklab(colour)
    chroma = float(np.hypot(green_red, blue_yellow))
    if chroma < GREYEST and not oklab(DARKEST_GREY)[0] <= lightness <= oklab(LIGHTEST_GREY)[0]:
        depth = _INK - oklab(CARD)[0]
        return _hex(np.array([_INK - depth * min(1.0, lightness) ** 1.5, 0.0, 0.0]))
    if lightness >= _KNEE:
        return to_hex(colour)
    return _hex(np.array([_LOWEST + lightness * (1 - _LOWEST / _KNEE), green_red, blue_yellow]))


def dark_rules(pictures: Iterable[str]) -> str:
    """Return rules of CSS that give every colour of SVG pictures the one it has in the dark; black is inherited."""
    found = sorted({pair for picture in pictures for pair in _MENTIONED.findall(picture)})
    return "\n".join(
        f'[style*="{part}: {colour}"], [{part}="{colour}"] {{ {part}: {in_the_dark(colour)} !important; }}'
        for part, colour in found
    )


def oklab(colour: str) -> NDArray[np.float64]:
    """Return lightness, 0 to 1, and the two opponent coordinates of a colour, shape (3,)."""
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    found: NDArray[np.float64] = _TO_LAB @ np.cbrt(_TO_CONES @ linear)
    return found


def _hex(lab: NDArray[np.float64]) -> str:
    """Return a colour as text, paler where a screen has none as strong."""
    for share in np.linspace(1, 0, 51):
        linear = np.linalg.solve(_TO_CONES, np.linalg.solve(_TO_LAB, lab * [1, share, share]) ** 3)
        if (linear > -1e-4).all() and (linear < 1 + 1e-4).all():
            break
    linear = linear.clip(0, 1)
    parts = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = map(float, parts.clip(0, 1))
    return to_hex((red, green, blue))
