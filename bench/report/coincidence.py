"""Curves that would hide each other: found, drawn as one striped line, and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

Heaps = Mapping[str, Sequence[Sequence[str]]]
"""By panel: groups of curves, as `coincident` finds them."""


def coincident(curves: Mapping[str, pd.Series], within: float) -> list[list[str]]:
    """Return groups of curves, two or more each, that are nowhere farther than ``within`` from the group's first."""
    groups: list[list[str]] = []
    for name, curve in curves.items():
        near = [group for group in groups if _near(curve, curves[group[0]], within)]
        if near:
            near[0].append(name)
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def line_width(name: str, heaps: Sequence[Sequence[str]]) -> float:
    """Return how wide to draw a curve, in points: the first of a group is widest and lies below."""
    heap = next((heap for heap in heaps if name in heap), [name])
    return 1.3 + 1.7 * (len(heap) - 1 - heap.index(name))


def striped(heaps: Heaps, how_near: str, called: Callable[[str], str]) -> list[str]:
    """Return the note on striped lines, if there are any; ``how_near`` says how far apart they are at most."""
    named = "; ".join(
        " = ".join(map(called, heap)) + f" at {panel}" for panel, found in heaps.items() for heap in found
    )
    return [f"One striped line, as they are nowhere more than {how_near} apart: {named}."] if named else []


def _near(curve: pd.Series, other: pd.Series, within: float) -> bool:
    known = curve.notna().any() and curve.index.equals(other.index) and curve.isna().equals(other.isna())
    return bool(known and (curve - other).abs().max() <= within)
