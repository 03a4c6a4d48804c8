"""How a reader wants a run shown: who stands out, whom the others are compared with, over what curves go."""

from __future__ import annotations

from dataclasses import dataclass

from profl.bench.report.appearance import PLAIN, Appearance
from profl.bench.report.style import README, Sheet


@dataclass(frozen=True)
class View:
    """What a report is asked for, beside the run.

    Parameters
    ----------
    highlight
        The method that stands out; by default `profl.bench.report.looks.NAMESAKE`, if it was run.
    versus
        The method that every other is compared with, seed by seed; by default the highlighted one, or the first rival.
    axis
        What curves are drawn over: a name of `profl.bench.report.axis.AXES`.
    methods
        Those that are shown, in this order, as if no other had been run; all by default.
    appearance
        What they are called, their colours and, where ``methods`` does not say it, their order.
    sheet
        What figures are drawn on, and in which formats they are written.
    """

    highlight: str | None = None
    versus: str | None = None
    axis: str = "rounds"
    methods: tuple[str, ...] = ()
    appearance: Appearance = PLAIN
    sheet: Sheet = README


USUAL = View()
"""What a reader gets who asks for nothing."""
