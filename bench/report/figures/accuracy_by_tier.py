"""The score by memory tier."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from profl.bench.report.chance import chance_in_view, chance_note, draw_chance
from profl.bench.report.far_below import lowest_shown
from profl.bench.report.figure import ReportFigure, has_accuracy
from profl.bench.report.grid import Grid, by_method
from profl.bench.report.ranking import best_methods, winners
from profl.bench.report.score import SCORE, SCORE_NAME
from profl.bench.report.study import Study
from profl.bench.report.style import GREY, mebibytes, page, panels, settle

ROW = 0.21
"""Inches per method on a sheet of the usual width."""

PANEL = 2.3
"""Inches that a panel and its numbers need at least to be read."""

BAND = "#F1F1F1"
"""Behind the method that stands out."""


def draw(study: Study) -> Figure:
    """Draw the score as a dot with its interval: a panel per tier, and in each the same row for the same method."""
    methods, tiers = in_rows(study), study.tiers
    scores, best = study.spreads(SCORE), best_methods(study)
    known = [spread for pair, spread in scores.items() if spread.known and not study.idle(*pair)]
    left = lowest_shown(known)
    shown = [spread for spread in known if spread.mean >= left]
    lowest = min((spread.ends[0] for spread in shown), default=math.nan)
    sheet = study.sheet
    room = sheet.width_inches - sheet.character_inches * study.longest_label
    rows = math.ceil(len(tiers) / max(1, int(room / (PANEL * sheet.scale))))
    columns = math.ceil(len(tiers) / rows)
    heads = [_head(study, tier, int(room / columns / sheet.character_inches) - 4) for tier in tiers]
    lines = max(head.count("\n") for head in heads) + 1
    body = 0.15 + rows * sheet.scale * (ROW * len(methods) + 0.3 + 0.15 * lines)
    title = "Test accuracy by memory tier, mean of the last five tests"
    notes, names = _notes(study, lowest, len(shown) < len(known)), ("test accuracy (%)", "")
    figure = page(body, title, study.training_setting, notes, axis_names=names, sheet=sheet)
    axes = panels(figure, len(tiers), columns)
    axes[0].set_yticks(range(len(methods)), map(study.label, methods))
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    for panel, tier, head in zip(axes, tiers, heads, strict=True):
        panel.set_title(head, fontsize=9 * sheet.scale, linespacing=1.15)
        for row, method in enumerate(methods):
            _draw_row(panel, study, row, method, tier, method in best[tier], left)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="y", visible=False)
        panel.spines["left"].set_visible(False)
        if known and chance_in_view(study, lowest):
            draw_chance(panel, study, upright=True)
        for method, name in zip(methods, panel.get_yticklabels(), strict=False):  # there are none inside the page
            name.set(color=study.looks[method].ink, fontweight="bold" if method == study.highlight else "normal")
    if not known:
        axes[0].set_xticks([])  # instead of an axis of made-up numbers
    settle(figure)
    return figure


def in_rows(study: Study) -> list[str]:
    """Return the methods from top to bottom: ideals, then rivals by their mean score in the first tier.

    Who has none there, as nobody could train or nothing is known, comes last, by the next tier. Where the reader chose
    an order, it is that.
    """
    if study.appearance.order:
        return study.methods
    scores = study.spreads(SCORE)

    def place(method: str) -> list[float]:
        means = [math.nan if study.idle(method, tier) else scores[method, tier].mean for tier in study.tiers]
        return [-mean if math.isfinite(mean) else math.inf for mean in means]

    return [*study.ideals, *sorted(study.rivals, key=place)]


def _head(study: Study, tier: str, characters: int) -> str:
    """Return what stands above a panel: the tier, and which memory its devices have."""
    memory = f"{mebibytes(study.budgets[tier])} MiB"
    kind = f"mixed fleet, mean {memory}" if tier in study.mixed else f"each device {memory}"
    return "\n".join([*textwrap.wrap(tier, max(10, characters)), kind])


def _draw_row(panel: Axes, study: Study, row: int, method: str, tier: str, best: bool, left: float) -> None:
    """Draw a method's score in a tier and write its mean beside the panel; or say why there is none.

    What is below ``left`` (0 to 1) is an arrow at the axis' end.
    """
    look, spread = study.looks[method], study.spreads(SCORE)[method, tier].times(100)
    idle = study.idle(method, tier)
    if method == study.highlight:
        panel.axhspan(row - 0.5, row + 0.5, color=BAND, lw=0, zorder=0.4)
    inside = panel.get_yaxis_transform()
    if spread.known and not idle:
        if spread.mean < 100 * left:
            panel.text(0, row, "\N{LEFTWARDS ARROW}", transform=inside, va="center_baseline", color=look.ink)
        else:
            if spread.has_interval:  # with ends that show beside the dot and above its rim, however short it is
                ends = [spread.low, spread.high]
                panel.plot(ends, [row, row], color=look.colour, lw=1.6)
                panel.plot(ends, [row, row], ls="", marker="|", ms=9, mew=1.2, color=look.colour, zorder=2.1)
            panel.plot(spread.mean, row, ls="", **look.dot())
        beside: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center_baseline"}
        weight = "bold" if best else "normal"
        across = ("axes fraction", "data")
        panel.annotate(
            f"{spread.mean:.1f}",
            (1, row),
            (32 * study.sheet.scale, 0),
            across,
            weight=weight,
            annotation_clip=False,
            **beside,
        )
        return
    if idle:
        panel.plot(0.04, row, ls="", transform=inside, **look.dot(hollow=True))
    text = "nobody can train" if idle else "no result yet"
    panel.text(0.09, row, text, transform=inside, va="center_baseline", color=GREY)


def _notes(study: Study, lowest: float, any_far_below: bool) -> list[str]:
    """Return what a reader must know of the figure; ``lowest`` is the lowest end of an interval that is drawn."""
    order = f"Rows: by the mean{f' at {study.tiers[0]}' if len(study.tiers) > 1 else ''}."
    means = "the highest of a panel and what is not told apart from it"
    bold = f"Bold numbers: {means}{study.aside(' ({})')}."
    rows = [*[order] * (not study.appearance.order), *[bold] * (study.seeds > 1 and len(study.rivals) > 1)]
    hollow = "Hollow: no device could train, so there is no accuracy but the untrained model's."
    anybody_idle = any(study.idle(method, tier) for method in study.methods for tier in study.tiers)
    arrow = "\N{LEFTWARDS ARROW}: far below all others."
    marks = [*[hollow] * anybody_idle, *[arrow] * any_far_below]
    return [*[" ".join(rows)] * bool(rows), *marks, *chance_note(study, lowest), *study.notes]


def grid(study: Study) -> Grid:
    """Return the score by method and tier."""
    return by_method(study, SCORE, f"{SCORE_NAME.capitalize()}, by memory tier", 1)


FIGURE = ReportFigure(
    name="accuracy_by_tier",
    title="Accuracy by memory tier",
    draw=draw,
    sentence=winners,
    grid=grid,
    shown=has_accuracy,
)
