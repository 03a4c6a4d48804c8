"""The accuracy of guessing, a dotted line in figures of accuracy; where all is far above it, a note."""

from __future__ import annotations

import math

from matplotlib.axes import Axes

from profl.bench.report.study import Study
from profl.bench.report.style import GREY

FAR = 0.25
"""Above chance: from there on an axis that reached down to it would press scores together."""


def draw_chance(axes: Axes, study: Study, upright: bool = False) -> None:
    """Draw it, if it is known: across the panel, or ``upright`` where accuracy runs from left to right."""
    if math.isfinite(study.chance):
        line = axes.axvline if upright else axes.axhline
        line(100 * study.chance, color=GREY, ls=":", lw=1.2, zorder=0.9)


def chance_in_view(study: Study, lowest: float) -> bool:
    """Whether an axis of scores down to ``lowest`` (0 to 1) can go on to chance without pressing them together."""
    return not lowest - study.chance > FAR  # NaN: nothing is pressed


def chance_note(study: Study, lowest: float = math.nan) -> list[str]:
    """Return the note that explains the line, or says that it would lie far below the ``lowest`` score."""
    if not math.isfinite(study.chance):
        return []
    line = "Dotted line: chance," if chance_in_view(study, lowest) else "Below the axis: chance,"
    return [f"{line} {100 * study.chance:.1f} %."]
