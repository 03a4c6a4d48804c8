"""Learning rates chosen by one rule for every method: the same sweep at every rate, tested on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from profl.bench.config import Config, override
from profl.bench.errors import InputError
from profl.bench.fleet import UNLIMITED
from profl.bench.results import Record, read_run
from profl.bench.results.folder import cell_folders
from profl.bench.technique import Technique


@dataclass(frozen=True)
class Choice:
    """The learning rate that a method gets.

    Parameters
    ----------
    rate
        The one with the highest mean score over tiers and seeds; of equal ones the smallest.
    score
        That mean, 0 to 1.
    end
        ``"smallest"``, ``"largest"`` or ``"only"`` if it is that of the method's rates, so that another may be better;
        else None.
    """

    rate: float
    score: float
    end: str | None


def rates_around(rate: float) -> tuple[float, ...]:
    """Return the default grid: half the recipe's rate, the same and the double; a choice at its end asks for more."""
    return rate / 2, rate, rate * 2


def at_each_rate(config: Config, rates: Sequence[float], share: float) -> dict[float, Config]:
    """Return a sweep once for every learning rate, smallest first, with a share of the training data held out.

    Raises
    ------
    InputError
        If a rate or the share cannot be used, or nothing is learned.
    """
    if config.memory_only:
        raise InputError("memory_only learns nothing, so that no learning rate can be chosen: leave it out")
    if not share > 0:
        raise InputError(f"held_out_share = {share:g} leaves nothing to choose by: give a share such as 0.2")
    plain = replace(config, learning_rates={})
    return {
        rate: override(plain, {}, learning_rate=rate, held_out_share=share) for rate in sorted(set(map(float, rates)))
    }


def scores(records: Mapping[float, Sequence[Record]]) -> pd.DataFrame:
    """Return the score of every cell at every learning rate.

    Parameters
    ----------
    records
        The finished cells by rate.

    Returns
    -------
    DataFrame
        ``method``, ``model``, ``width``, ``dataset``, ``tier``, ``seed``, ``technique``, ``rate`` and ``score``: the
        cell's ``last_five_accuracy``, here on held-out data.
    """
    place = ("method", "model", "width", "dataset", "tier", "seed", "technique")
    return pd.DataFrame(
        {
            **{name: getattr(record.cell, name) for name in place},
            "rate": rate,
            "score": record.summary["last_five_accuracy"],
        }
        for rate, cells in records.items()
        for record in cells
    )


def finished(folder: Path, config: Config, share: float) -> dict[float, list[Record]]:
    """Return by rate the finished cells of a tuning folder that are of this sweep, whichever command ran them.

    Methods are not looked at: one that was given further rates later is chosen among all of its rates, and others keep
    theirs.
    """
    grid = config.grid
    techniques = [str(Technique.parse(text)) for text in grid.technique]
    records = {}
    for run in folder.glob("*/cells"):
        try:
            rate = float(run.parent.name)
        except ValueError:
            continue
        if not cell_folders(run.parent):  # killed before it began one
            continue
        wanted = override(replace(config, learning_rates={}), {}, learning_rate=rate, held_out_share=share).recipe
        records[rate] = [
            record
            for record in read_run(run.parent).records
            if record.status == "done"
            and (cell := record.cell).recipe == wanted
            and (cell.model in grid.model and cell.width in grid.width and cell.dataset in grid.dataset)
            and (cell.tier in (*grid.tier, UNLIMITED) and cell.seed in grid.seed)
            and cell.technique in techniques
        ]
    return dict(sorted(records.items()))


def choose(found: pd.DataFrame) -> dict[str, Choice]:
    """Return the learning rate of every method, from what `scores` returns."""
    means = found.pivot_table("score", "method", "rate")
    choices = {}
    for method, row in means.iterrows():
        tried = row.dropna().sort_index()
        ends = {tried.index[0]: "smallest", tried.index[-1]: "largest" if len(tried) > 1 else "only"}
        rate = float(tried.idxmax())  # the first of equal ones, which is the smallest
        choices[str(method)] = Choice(rate, float(tried[rate]), ends.get(rate))
    return choices


def table(choices: Mapping[str, Choice]) -> str:
    """Return the choices as the table ``[learning_rates]`` of a sweep's TOML file."""
    lines = [
        f"{method} = {choice.rate}" + (f"  # the {choice.end} tried: another may be better" if choice.end else "")
        for method, choice in choices.items()
    ]
    return "\n".join(["[learning_rates]", *lines])
