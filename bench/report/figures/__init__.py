"""The figures of the report, one a file.

A figure of your own is a file here with a `profl.bench.report.figure.ReportFigure` named ``FIGURE``, and its name twice
below: once to import it, once where it is to stand in the report.
"""

from __future__ import annotations

from profl.bench.report.figure import ReportFigure
from profl.bench.report.figures import (
    accuracy_by_tier,
    accuracy_memory_cost,
    convergence,
    effective_movement,
    learning_curves,
    memory_by_round,
    participation,
    peak_memory,
)
from profl.bench.report.study import Study

FIGURES: tuple[ReportFigure, ...] = (
    accuracy_by_tier.FIGURE,
    accuracy_memory_cost.FIGURE,
    memory_by_round.FIGURE,
    peak_memory.FIGURE,
    participation.FIGURE,
    learning_curves.FIGURE,
    convergence.FIGURE,
    effective_movement.FIGURE,
)
"""Every figure, in the order in which the report shows them."""


def figures_of(study: Study) -> list[ReportFigure]:
    """Return the figures that there can be something in."""
    return [figure for figure in FIGURES if figure.shown(study)]
