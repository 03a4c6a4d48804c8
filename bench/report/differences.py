"""Methods compared seed by seed: at one seed both have the same fleet, data and initial values."""

from __future__ import annotations

import pandas as pd

from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.score import SCORE
from profl.bench.report.spread import Spread, over_seeds
from profl.bench.report.study import Study

NOT_TOLD_APART = "not told apart"


def paired(values: pd.Series, others: pd.Series) -> Spread:
    """Return by how much ``values`` exceed ``others``, both indexed by seed, over the seeds that both have."""
    return over_seeds((values - others).dropna().to_list())


def differences(study: Study) -> dict[tuple[str, str], Spread]:
    """Return by how much the score of every other method exceeds that of ``study.versus``, by method and tier.

    Left out are pairs that trained nobody: they differ in the initial values of what was tested, if at all.
    """
    scores = study.values(SCORE)
    if study.versus not in study.methods:
        return {}
    others = [method for method in study.methods if method != study.versus]
    return {
        (method, tier): paired(scores[method, tier], scores[study.versus, tier])
        for method in others
        for tier in study.tiers
        if not (study.idle(method, tier) and study.idle(study.versus, tier))
    }


def differences_frame(study: Study) -> pd.DataFrame:
    """Return `differences` as a table: shares from 0 to 1, NaN if unknown.

    Returns
    -------
    DataFrame
        One row per tier and other method: ``tier``, ``method``, ``versus``, ``seeds`` (that both have), ``difference``
        (mean), ``low``, ``high`` (of its interval), ``told_apart``.
    """
    scores = study.values(SCORE)
    rows = []
    for (method, tier), spread in differences(study).items():
        shared = scores[method, tier].index.intersection(scores[study.versus, tier].index)
        rows.append((tier, method, study.versus, len(shared), *spread, spread.told_apart))
    columns = ["tier", "method", "versus", "seeds", "difference", "low", "high", "told_apart"]
    return pd.DataFrame(rows, columns=columns)


def differences_grid(study: Study) -> Grid:
    """Return the same in points, by method and tier; no rows if ``study.versus`` was not run, or nothing beside it."""
    found = differences(study)
    rows = [
        GridRow(study.label(method), [_entry(found.get((method, tier))) for tier in study.tiers])
        for method in study.methods
        if method != study.versus and found
    ]
    caption = f"Difference in score from {study.called(study.versus)}, in points"
    note = (
        f"At the same seed. {study.certainty} Not told apart: the interval holds zero, or there is none. Each interval"
        " stands for itself: of twenty, one errs on average."
    )
    return Grid(caption, "method", study.tier_labels, {"": rows} if rows else {}, note)


def _entry(difference: Spread | None) -> Entry:
    if difference is None:
        return Entry("–", ("neither trained",), quiet=True)
    if not difference.known:
        return Entry("?")
    points = difference.times(100)
    more = [f"{points.low:+.1f} to {points.high:+.1f}"] if points.has_interval else []
    return Entry(f"{points.mean:+.1f}", (*more, *([] if points.told_apart else [NOT_TOLD_APART])))
