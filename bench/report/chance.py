"""The accuracy of guessing, a dotted line in figures of accuracy."""

from __future__ import annotations

import math

from matplotlib.axes import Axes

from profl.bench.report.study import Study
from profl.bench.report.style import GREY


def draw_chance(axes: Axes, study: Study) -> None:
    """Draw it, if it is known."""
    if math.isfinite(study.chance):
        axes.axhline(100 * study.chance, color=GREY, ls=":", lw=1.2, zorder=0.9)


def chance_note(study: Study) -> list[str]:
    """Return the note that explains the line; none if there is no line."""
    return [f"Dotted line: chance, {100 * study.chance:.1f} %."] if math.isfinite(study.chance) else []
