"""What figures over the rounds, or over what they cost, have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from profl.bench.report.study import Study
from profl.bench.report.style import Legend, page, panels

LEGEND_COLUMNS = 7
"""The most that a legend has."""
LEGEND_CHARACTERS = 100
"""How many characters of names, each with its mark, fit in one line of a legend."""


FEW = 10
"""Methods up to which two panels, with a strip for every schedule, fit side by side."""


def legend_columns(study: Study) -> int:
    """Return in how many columns a legend of the methods fits."""
    return max(1, min(LEGEND_COLUMNS, LEGEND_CHARACTERS // study.longest_label))


def round_panels(
    study: Study,
    title: str,
    quantity: str,
    notes: Sequence[str],
    handles: Sequence[Line2D | Patch],
    across: str = "round",
) -> tuple[Figure, list[Axes]]:
    """Return a page with a panel per tier, and a legend above.

    Parameters
    ----------
    study
        What was run.
    title
        Of the page.
    quantity
        What the panels show, with its unit.
    notes
        Sentences for the foot.
    handles
        What the legend shows: methods, with their names.
    across
        Over what they show it.
    """
    columns = 2 if len(study.methods) <= FEW and not study.sheet.narrow else 1
    height = 0.2 + (2.1 if columns == 2 or study.sheet.narrow else 3.6) * math.ceil(len(study.tiers) / columns)
    legend = Legend(handles, legend_columns(study))
    figure = page(height, title, study.training_setting, notes, legend, (across, quantity), study.sheet)
    axes = panels(figure, len(study.tiers), columns)
    for panel, tier in zip(axes, study.tiers, strict=True):
        panel.set_title(study.tier_label(tier, between=" · ") + " per device")
    return figure, axes


def set_axis(panel: Axes, study: Study, ticks: int = 6) -> None:
    """Let a panel, and those that share its axis, reach over all that was spent, with so many ticks at most."""
    most = study.progress.max()
    panel.set_xlim(0, 1.02 * most if most > 0 else 1)  # NaN: nothing was run
    panel.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10], integer=not study.axis.columns))
