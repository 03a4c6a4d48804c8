"""Scores at equal budgets: of every method, what it had reached when a number of rounds, operations or bytes was spent.

The budget of a tier and seed is the least that any cell there spent in its whole run, so that no method is judged
beyond its own. A run is cut where the budget is spent, not planned anew: a schedule that spans the run is cut too.
"""

from __future__ import annotations

import pandas as pd

from profl.bench.report.axis import AXES, Axis
from profl.bench.report.differences import paired
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.ranking import chain
from profl.bench.report.spread import UNKNOWN, over_seeds
from profl.bench.report.study import Study, Values
from profl.bench.results import mean_of_last_tests


def budgets_of(study: Study, axis: Axis, tier: str) -> pd.Series:
    """Return by seed the least that any finished cell of a tier spent in which a device trained; if it is known."""
    done = study.cells.loc[(study.cells["status"] == "done") & (study.cells["tier"] == tier), ["cell", "seed"]]
    trained = set(study.rounds.loc[study.rounds["participants"] > 0, "cell"])
    ends = study.rounds.assign(spent=axis.spent(study.rounds)).drop_duplicates("cell", keep="last")
    spent = {cell: amount for cell, amount in zip(ends["cell"], ends["spent"], strict=True) if cell in trained}
    return done.assign(spent=done["cell"].map(spent).astype(float)).groupby("seed")["spent"].min().dropna()


def scores_at_budget(study: Study, axis: Axis) -> Values:
    """Return the score of every finished cell when the budget of its tier and seed was spent; without the unknown.

    Unknown are those whose cost was not counted and those that were not tested before.
    """
    rounds = study.rounds.assign(spent=axis.spent(study.rounds)).dropna(subset=["test_accuracy"])
    tested = {str(cell): rows for cell, rows in rounds.groupby("cell")}
    found = {}
    for tier in study.tiers:
        budgets = budgets_of(study, axis, tier)
        for method in study.methods:
            cells = study.cells_of(method, tier)
            done = cells.loc[cells["status"] == "done"]
            scores = {
                seed: mean_of_last_tests(rows.loc[rows["spent"] <= budgets[seed], "test_accuracy"].to_list())
                for seed, cell in zip(done["seed"], done["cell"], strict=True)
                if seed in budgets and (rows := tested.get(cell)) is not None
            }
            found[method, tier] = pd.Series(scores, dtype=float).dropna()
    return found


def budgets_frame(study: Study) -> pd.DataFrame:
    """Return scores at equal budgets as a table; NaN if unknown.

    Returns
    -------
    DataFrame
        One row per tier, budget and method: ``tier``, ``budget`` (a name of `AXES`), ``amount`` (rounds, floating-point
        operations or bytes, mean over the seeds), ``method``, ``seeds`` (in which it was tested by then), ``score``
        (mean over those, 0 to 1), ``low``, ``high`` (of its interval); ``versus``, ``difference`` in score from it,
        seed by seed, ``difference_low``, ``difference_high`` (of its interval).
    """
    columns = ["tier", "budget", "amount", "method", "seeds", "score", "low", "high"]
    columns += ["versus", "difference", "difference_low", "difference_high"]
    rows = []
    for axis in AXES.values():
        scores = scores_at_budget(study, axis)
        for (method, tier), values in scores.items():
            spread = over_seeds(values.to_list(), share=True)
            versus = scores.get((study.versus, tier))
            apart = UNKNOWN if versus is None or method == study.versus else paired(values, versus)
            amount = budgets_of(study, axis, tier).mean()
            rows.append((tier, axis.name, amount, method, len(values), *spread, study.versus, *apart))
    return pd.DataFrame(rows, columns=columns)


def _is_waiting(study: Study, method: str, tier: str) -> bool:
    """Whether a cell of the pair is not done, so that an order without it may change yet."""
    cells = study.cells_of(method, tier)
    return bool(cells.empty or (cells["status"] != "done").any())


def budgets_grid(study: Study) -> Grid:
    """Return the order of the methods at every budget, by tier."""
    scores = {axis.name: scores_at_budget(study, axis) for axis in AXES.values()}
    groups = {}
    for tier in study.tiers:
        idle = [name for name in study.methods if study.idle(name, tier)]
        waiting = [study.label(name) for name in study.methods if name not in idle and _is_waiting(study, name, tier)]
        rows = []
        for axis in AXES.values():
            budgets = budgets_of(study, axis, tier)
            known = {study.label(name): scores[axis.name][name, tier] for name in study.methods if name not in idle}
            # The mean over some of the seeds says nothing beside those over all.
            partly = [name for name, values in known.items() if len(values) < len(budgets)]
            order = chain({name: values for name, values in known.items() if name not in partly})
            untested = [name for name in partly if name not in waiting]
            amount = axis.told(budgets.mean())
            more = [f"not tested by then in every seed: {', '.join(untested)}"] if untested and len(budgets) else []
            more += [f"not all seeds are done yet: {', '.join(waiting)}"] if waiting else []
            more += [f"nobody can train: {study.listed(idle)}"] if idle and order else []
            rows.append(GridRow(axis.name, [Entry(amount), Entry(order or "?", tuple(more))]))
        groups[study.tier_label(tier, between=" · ")] = rows
    shown = " shown" if study.left_out else ""
    note = (
        f"Score in percent when the budget is spent, which is the least that any run{shown} of the tier and seed"
        " spent in the whole (its mean is shown). A run is cut there, not planned anew: so is a schedule that spans it."
        " > told apart from the next, seed by seed;"
        f" a comma: not told apart. {' '.join([study.certainty, *study.selection])}"
    )
    columns = ["budget", "methods, the highest mean first"]
    return Grid("Order of the methods at equal budgets", "tier, counted in", columns, groups, note, numbers=False)
