"""The part of a run that fits one figure: one model on one dataset, measured on one GPU."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from profl.bench.cell import Cell
from profl.bench.data import classes_of
from profl.bench.errors import InputError
from profl.bench.fleet import UNLIMITED
from profl.bench.memory.gpu.profile import ESTIMATE
from profl.bench.report.appearance import PLAIN, Appearance
from profl.bench.report.axis import AXES, Axis, axis_named
from profl.bench.report.contenders import chosen, contenders, only
from profl.bench.report.looks import NAMESAKE, Look, in_order, looks
from profl.bench.report.score import SCORE
from profl.bench.report.spread import INTERVAL, Spread, over_seeds
from profl.bench.report.style import README, Sheet, mebibytes
from profl.bench.report.view import USUAL, View
from profl.bench.results import Run
from profl.bench.results.score import LAST_TESTS

Values = Mapping[tuple[str, str], pd.Series]
"""By method and tier: one value per seed whose cell is done, indexed by seed."""


@dataclass(frozen=True)
class Study:
    """One model, dataset and GPU of a run, in display order.

    Parameters
    ----------
    model, width, dataset, gpu
        What the cells have in common.
    cells, rounds, footprints
        The run's frames, cut down to them.
    mixed
        Tiers in which devices differ in memory.
    chance
        Accuracy of guessing, 0 to 1: one by the number of classes; NaN if that is unknown.
    ideals
        Methods that ignore the memory of the tiers they are shown in: drawn apart, left out of every contest.
    highlight
        The method that stands out.
    versus
        The method that every other is compared with, seed by seed; a run may lack it.
    axis
        What curves are drawn over.
    measured_as
        Scale at which memory was measured; None if it is that of training.
    held_out_share
        Share of the training data that tests ran on; 0: on the test set.
    of_rounds
        How many rounds a cell has when it is done.
    appearance
        What methods are called, their colours and their order.
    sheet
        What figures are drawn on.
    left_out
        Methods that were run, but are not shown.
    """

    model: str
    width: str
    dataset: str
    gpu: str
    cells: pd.DataFrame
    rounds: pd.DataFrame
    footprints: pd.DataFrame
    mixed: frozenset[str]
    chance: float
    ideals: tuple[str, ...]
    highlight: str
    versus: str
    axis: Axis
    measured_as: str | None
    held_out_share: float
    of_rounds: int
    appearance: Appearance = PLAIN
    sheet: Sheet = README
    left_out: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For file names."""
        return f"{self.model}-{self.width}-{self.dataset}-{self.gpu}".replace(":", "-")

    @property
    def setting(self) -> str:
        """Model, dataset and GPU, for headings."""
        gpu = self.gpu.replace("virtual:", "virtual ").removeprefix(ESTIMATE)
        memory = f"memory of {self.measured_as}," if self.measured_as else "memory"
        how = "estimated, not measured, for" if self.gpu.startswith(ESTIMATE) else "measured on"
        return f"{self.model} (width {self.width}) on {self.dataset} · {memory} {how}: {gpu}"

    @property
    def training_setting(self) -> str:
        """The same and how much was trained, for headings of figures of results."""
        held_out = f" · tested on {100 * self.held_out_share:g} % of the training data, held out"
        tested = held_out if self.held_out_share else ""
        return f"{self.setting} · {self.of_rounds} rounds · {self.of_seeds}{tested}"

    @cached_property
    def memory_only(self) -> bool:
        """Whether nothing was computed, so that there is no accuracy to show."""
        return bool(self.cells["memory_only"].all())

    @cached_property
    def methods(self) -> list[str]:
        """Methods, in display order."""
        return in_order(self.cells["method"], self.ideals, self.highlight, self.appearance.order)

    @property
    def bare_methods(self) -> list[str]:
        """The methods alone, in display order, without the techniques that some were run with."""
        names = dict(zip(self.cells["method"], self.cells["bare_method"], strict=True))
        return list(dict.fromkeys(names[method] for method in self.methods))

    @cached_property
    def looks(self) -> dict[str, Look]:
        """How each method is drawn, in display order."""
        return looks(self.methods, self.ideals, self.appearance.colours)

    @property
    def rivals(self) -> list[str]:
        """The methods that are not ideals."""
        return [name for name in self.methods if name not in self.ideals]

    def called(self, method: str) -> str:
        """Return what a method is called, for sentences."""
        return self.appearance.labels.get(method, method)

    def listed(self, methods: Iterable[str]) -> str:
        """Return what methods are called, with commas between."""
        return ", ".join(map(self.called, methods))

    def label(self, method: str, between: str = " ") -> str:
        """Return what a method is called, and whether it is an ideal."""
        return f"{self.called(method)}{between}(ideal)" if method in self.ideals else self.called(method)

    @property
    def longest_label(self) -> int:
        """Characters of the longest name of a method, as `label` gives it."""
        return max(len(self.label(method)) for method in self.methods)

    def aside(self, form: str) -> str:
        """Return ``form`` with the ideals in place of its ``{}``, as in ``fedavg aside``; nothing without ideals."""
        return form.format(f"{self._ideals_named} aside") if self.ideals else ""

    @property
    def _ideals_named(self) -> str:
        return _listed([self.called(method) for method in self.ideals])

    @cached_property
    def tiers(self) -> list[str]:
        """Tiers: the mixed ones, then the uniform, the poorest of either first and unknown budgets last."""
        budgets = self.budgets
        return sorted(
            budgets, key=lambda tier: (tier not in self.mixed, math.isnan(budgets[tier]), budgets[tier], tier)
        )

    @cached_property
    def budgets(self) -> dict[str, float]:
        """Mean device budget in bytes by tier; NaN as long as no cell of the tier is done."""
        means = self.cells.groupby("tier")["mean_device_budget_bytes"].mean()
        return {str(tier): float(mean) for tier, mean in means.items()}

    @property
    def seeds(self) -> int:
        """How many seeds there are results of; as long as no cell is done, how many there are to be."""
        done = self.cells.loc[self.cells["status"] == "done", "seed"]
        return (done if len(done) else self.cells["seed"]).nunique()

    @property
    def of_seeds(self) -> str:
        """The number of seeds, in words; a mean goes over fewer as long as cells are missing."""
        most = "up to " if self.completeness and self.seeds > 1 else ""
        return f"{most}{self.seeds} seed{'s' if self.seeds > 1 else ''}"

    @property
    def tier_labels(self) -> list[str]:
        """The labels of all tiers, in two lines."""
        return [self.tier_label(tier) for tier in self.tiers]

    def tier_label(self, tier: str, between: str = "\n") -> str:
        """Return a tier's name and what each of its devices has, or all have on average."""
        mean = "mean " if tier in self.mixed else ""
        return f"{tier}{between}{mean}{mebibytes(self.budgets[tier])} MiB"

    @cached_property
    def progress(self) -> pd.Series:
        """Where the end of every row of the rounds lies on the axis, in the unit of `axis_label`; NaN if unknown."""
        spent = self.axis.spent(self.rounds)
        size, _ = self.axis.unit(spent.max())
        return spent / size

    @property
    def axis_label(self) -> str:
        """What the axis counts, and its unit."""
        _, unit = self.axis.unit(self.axis.spent(self.rounds).max())
        return self.axis.label(unit)

    @property
    def learned_accuracy(self) -> float:
        """Accuracy from which on a model has learned something, 0 to 1: odds of 1.5 times those of chance; may be NaN.

        Enough for a model that only guesses, but happens to guess the commonest class of a small test set.
        """
        return 1.5 * self.chance / (1 + 0.5 * self.chance)

    @cached_property
    def tasks(self) -> list[tuple[str, list[tuple[str, dict[Any, Any]]]]]:
        """The measured tasks of every method by name, each with its row of the footprints; in display order."""
        entries = [dict(entry) for entry in self.footprints.to_dict("records")]
        varies = len({entry["batch_size"] for entry in entries}) > 1
        found: dict[str, list[tuple[str, dict[Any, Any]]]] = {method: [] for method in self.methods}
        for entry in entries:
            batch = f", batch {entry['batch_size']}" if varies else ""
            found[entry["method"]].append((f"{entry['task']}{batch}", entry))
        return [(method, tasks) for method, tasks in found.items() if tasks]

    def cells_of(self, method: str, tier: str) -> pd.DataFrame:
        """Return the cells of a method and tier, by seed."""
        return self._by_pair.get((method, tier), self.cells.iloc[:0])

    @cached_property
    def _by_pair(self) -> dict[Any, pd.DataFrame]:
        return dict(iter(self.cells.sort_values("seed").groupby(["method", "tier"])))

    def values(self, column: str) -> Values:
        """Return a column of the finished cells, seed by seed, by method and tier; without the unknown."""
        if column not in self._values:
            done = self.cells.loc[self.cells["status"] == "done"].dropna(subset=[column]).sort_values("seed")
            found = {
                pair: cells.set_index("seed")[column].astype(float) for pair, cells in done.groupby(["method", "tier"])
            }
            pairs = [(method, tier) for method in self.methods for tier in self.tiers]
            self._values[column] = {pair: found.get(pair, pd.Series(dtype=float)) for pair in pairs}
        return self._values[column]

    @cached_property
    def _values(self) -> dict[str, Values]:
        return {}

    def spreads(self, column: str) -> dict[tuple[str, str], Spread]:
        """Return a column over the seeds for every pair of method and tier; what the schema calls a share stays one."""
        share = column.endswith(("_share", "_accuracy"))
        return {pair: over_seeds(values, share) for pair, values in self.values(column).items()}

    def most(self, column: str) -> dict[tuple[str, str], float]:
        """Return the most of a column in any finished seed, for every pair of method and tier; NaN if unknown."""
        return {pair: float(values.max()) for pair, values in self.values(column).items()}

    def idle(self, method: str, tier: str) -> bool:
        """Whether the pair has finished cells and in none of them any device could train."""
        return self.most("participation_share")[method, tier] == 0

    @property
    def unfinished(self) -> list[str]:
        """One entry per missing result: ``depthfl at 30% (failed after 12 of 60 rounds)``."""
        found = []
        for method in self.methods:
            for tier in self.tiers:
                cells = self.cells_of(method, tier)
                if cells.empty:
                    found.append(f"{self.called(method)} at {tier} (not run)")
                for seed, status, rounds in zip(cells["seed"], cells["status"], cells["rounds"], strict=True):
                    if status != "done":
                        which = f"seed {seed}, " if self.seeds > 1 else ""
                        after = f" after {rounds} of {self.of_rounds} rounds" if rounds else ""
                        found.append(f"{self.called(method)} at {tier} ({which}{status}{after})")
        return found

    def standing(self, method: str, tier: str) -> list[str]:
        """Say how far the cells of a pair are, in the short texts that stand in a table in place of a result."""
        told = []
        for status, rounds in self.cells_of(method, tier).groupby("status")["rounds"]:
            told += [str(status), *([f"{_span(rounds)} of {self.of_rounds} rounds"] if rounds.max() else [])]
        return told or ["not run"]

    @property
    def notes(self) -> list[str]:
        """What every figure of means must add: the ideal bound, what the intervals are, what is missing."""
        return [*self.bounds, self.certainty, *self.few_tests, *self.selection, *self.gaps]

    @property
    def few_tests(self) -> list[str]:
        """What to say of scores behind which there are fewer than `LAST_TESTS` tests."""
        scored = self.cells.loc[self.cells[SCORE].notna(), "cell"]
        tests = self.rounds.loc[self.rounds["cell"].isin(scored)].groupby("cell")["test_accuracy"].count()
        fewer = tests[tests < LAST_TESTS]
        if fewer.empty:
            return []
        which = "All scores are" if len(fewer) == len(tests) else f"{len(fewer)} of {len(tests)} cells' scores are"
        return [f"{which} of fewer than {LAST_TESTS} tests: the mean of {_span(fewer)}."]

    @property
    def selection(self) -> list[str]:
        """What to say of methods that are not shown."""
        number = len(self.methods)
        return [f"Shown: {number} of {number + len(self.left_out)} methods."] if self.left_out else []

    @property
    def completeness(self) -> str:
        """How many cells are done; empty if all are."""
        cells = self.cells.drop_duplicates("cell")  # an ideal's stands in every tier
        done = int((cells["status"] == "done").sum())
        return f"{done} of {len(cells)} cells are done." if done < len(cells) else ""

    @property
    def certainty(self) -> str:
        """How far a mean over the seeds may be off."""
        if self.seeds == 1:
            return "One seed: how far a result may be off is not known, so nothing is called better."
        return f"Mean and {INTERVAL} of {self.of_seeds}."

    @property
    def bounds(self) -> list[str]:
        """What to say of methods that are no rivals."""
        are = "are ideal bounds" if len(self.ideals) > 1 else "is an ideal bound"
        bounds = f"{self._ideals_named} {are}: every device trains, whatever its memory."
        return [bounds] if self.ideals else []

    @property
    def gaps(self) -> list[str]:
        """What to say of missing results."""
        missing = self.unfinished
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        told = [self.completeness, f"No result: {shown}." if missing else ""]
        return [*filter(None, told), *self.out_of_memory]

    @property
    def out_of_memory(self) -> list[str]:
        """What to say of trainings that ran out of memory though a least budget had let them begin."""
        most = self.most("out_of_memory_trainings").items()
        told = [f"{self.called(method)} at {tier}, {_times(number)}" for (method, tier), number in most if number > 0]
        in_a_run = " (the most of any seed)" if self.seeds > 1 else ""
        return [f"Ran out of memory in training, though admitted{in_a_run}: {'; '.join(told)}."] if told else []


def bytes_of(entry: Mapping[Any, Any], column: str) -> float:
    """Return a number of bytes of a footprint, NaN if it was not measured."""
    value = entry.get(column)
    return math.nan if value is None else float(value)


def _span(numbers: pd.Series) -> str:
    low, high = numbers.min(), numbers.max()
    return str(low) if low == high else f"{low} to {high}"


def _times(number: float) -> str:
    return "once" if number == 1 else f"{number:.0f} times"


def _listed(names: Sequence[str]) -> str:
    """Return ``'a, b and c'``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def studies(run: Run, view: View = USUAL) -> Iterator[Study]:
    """Cut a run into studies, by model, width, dataset and GPU.

    Parameters
    ----------
    run
        What was run.
    view
        How it is to be shown.

    Raises
    ------
    InputError
        If a method that it names was not run, or what its axis counts was not counted.
    """
    everybody, whole = contenders(run), run
    run = only(run, view.methods)
    names = contenders(run)

    def method(name: str | None, what: str) -> str | None:
        if name is None:
            return None
        found = chosen(everybody, name, what)
        if found not in names:
            raise InputError(f"method '{name}' is left out, so it cannot be {what}: show it too, with --method")
        return found

    stands_out = method(view.highlight, "highlighted") or NAMESAKE
    versus = method(view.versus, "compared with")
    order = (*(everybody[name] for name in view.methods), *view.appearance.order)
    appearance = replace(view.appearance, order=order)
    _check_labels(appearance, names.values())
    run = _by_contender(run)
    axis = axis_named(view.axis)
    counted = [name for name, other in AXES.items() if other.spent(run.rounds).notna().any()]
    if len(run.rounds) and axis.name not in counted:
        raise InputError(f"{run.path} did not count {axis.name}: draw over {' or '.join(counted)}")
    keys = ["model", "width", "dataset", "gpu"]
    for values, cells in run.cells.groupby(keys, dropna=False):
        model, width, dataset, gpu = values
        prints = run.footprints.reindex(columns=list(dict.fromkeys([*run.footprints, *keys])))  # may be empty
        here = (prints[keys] == list(values)).all(axis=1)
        rounds = run.rounds.loc[run.rounds["cell"].isin(cells["cell"])]
        ideals = ideals_of(cells)
        run_here = [record.cell for record in run.records if record.name in set(cells["cell"])]
        yield Study(
            str(model),
            str(width),
            str(dataset),
            str(gpu),
            _in_every_tier(cells, ideals),
            rounds,
            prints.loc[here],
            _mixed(run_here),
            _chance(run_here[0]),
            ideals,
            stands_out,
            versus or _usual_versus(cells, ideals, stands_out, order),
            axis,
            run_here[0].measured_scale,
            run_here[0].recipe.held_out_share,
            run_here[0].recipe.rounds,
            appearance,
            view.sheet,
            _left_out(whole, names.values(), values),
        )


def _check_labels(appearance: Appearance, methods: Iterable[str]) -> None:
    """Refuse labels that would make two methods one to a reader."""
    by_label: dict[str, str] = {}
    for method in methods:
        label = appearance.labels.get(method, method)
        if by_label.setdefault(label, method) != method:
            raise InputError(f"'{by_label[label]}' and '{method}' would both be called '{label}': give them two labels")


def _left_out(run: Run, shown: Collection[str], study: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the contenders that were run in a study, but are not shown."""
    cells = [record.cell for record in run.records]
    here = {cell.contender for cell in cells if (cell.model, cell.width, cell.dataset, cell.gpu) == study}
    return tuple(sorted(here.difference(shown)))


def _by_contender(run: Run) -> Run:
    """Return a run in which a method with a technique is a method of its own: everything that a study shows."""
    names = {record.name: record.cell.contender for record in run.records}
    of_footprint = {
        (record.cell.method, record.cell.technique): record.cell.contender for record in run.records
    }  # footprints are shared by cells
    cells, prints = run.cells, run.footprints
    if not prints.empty:
        pairs = zip(prints["method"], prints["technique"], strict=True)
        prints = prints.assign(method=[of_footprint[pair] for pair in pairs])
    return replace(
        run,
        cells=cells.assign(bare_method=cells["method"], method=cells["cell"].map(names)),
        rounds=run.rounds.assign(method=run.rounds["cell"].map(names)),
        footprints=prints,
    )


def _usual_versus(cells: pd.DataFrame, ideals: Collection[str], highlight: str, first: Sequence[str]) -> str:
    """Return the method that others are compared with if nobody says: the highlight, or the first that is no ideal."""
    methods = in_order(cells["method"], ideals, highlight, first)
    return highlight if highlight in methods else next((name for name in methods if name not in ideals), methods[0])


def _mixed(cells: Iterable[Cell]) -> frozenset[str]:
    found = set()
    for cell in cells:
        with suppress(InputError):  # the file of a tier may be gone
            if len(set(cell.budgets(full_model_bytes=2**40))) > 1:  # any number tells equal shares from unequal
                found.add(cell.tier)
    return frozenset(found)


def _chance(cell: Cell) -> float:
    with suppress(InputError):  # the data may be elsewhere
        return 1 / classes_of(cell.dataset, Path(cell.data) if cell.data else None)
    return math.nan


def ideals_of(cells: pd.DataFrame) -> tuple[str, ...]:
    """Return the methods that ignored memory where others had to fit it: run in the tier `UNLIMITED` and no other.

    Where nothing has a limit, all are alike and none is an ideal.
    """
    limited = set(cells.loc[cells["tier"] != UNLIMITED, "method"])
    return tuple(sorted(set(cells["method"]) - limited)) if limited else ()


def _in_every_tier(cells: pd.DataFrame, ideals: Sequence[str]) -> pd.DataFrame:
    """Repeat the cells of ideals, which were run once, in every tier they compare with."""
    once = cells["method"].isin(ideals)
    tiers = cells.loc[~once, "tier"].unique()
    repeated = [cells.loc[once].assign(tier=tier) for tier in tiers]
    return pd.concat([cells.loc[~once], *repeated], ignore_index=True) if once.any() and len(tiers) else cells
