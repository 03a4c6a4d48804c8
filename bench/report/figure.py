"""A figure of the report: one record, from which files, page and tables follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from profl.bench.report.grid import Grid
from profl.bench.report.study import Study


def always(study: Study) -> bool:
    """Show a figure whatever was run."""
    return True


def has_accuracy(study: Study) -> bool:
    """Show a figure if training really computed something."""
    return not study.memory_only


@dataclass(frozen=True)
class ReportFigure:
    """What the report must know of a figure. To add one, see `profl.bench.report.figures`.

    Parameters
    ----------
    name
        Of its files, and of its place in the page.
    title
        What it shows, in a few words, for those who do not see it.
    draw
        Draws it; called inside `profl.bench.report.style.house_style`. Usually on a `profl.bench.report.style.page`.
    sentence
        Says the main thing that it shows.
    grid
        Returns its numbers as a table.
    shown
        Whether there can be something in it.
    """

    name: str
    title: str
    draw: Callable[[Study], Figure]
    sentence: Callable[[Study], str]
    grid: Callable[[Study], Grid]
    shown: Callable[[Study], bool] = always
