"""Nothing is called better that the seeds do not tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from profl.bench.cli.report import report
from profl.bench.errors import InputError
from profl.bench.method import FullModel, Method
from profl.bench.report.axis import AXES
from profl.bench.report.deviations import deviations
from profl.bench.report.differences import differences, differences_frame, differences_grid, paired
from profl.bench.report.grid import Entry, Grid, GridRow
from profl.bench.report.markdown import accuracy_grid, markdown, write_markdown
from profl.bench.report.page.grids import summary
from profl.bench.report.ranking import chain
from profl.bench.report.spread import UNKNOWN, over_seeds
from profl.bench.report.study import studies
from profl.bench.report.view import View
from profl.bench.results import Run, read_run
from tests.conftest import plug_in
from tests.report.conftest import write_cell
from tests.report.small_studies import study_of


class Own(Method):
    """A plug-in that is not quite what was published."""

    deviations = ("No server momentum.", "Clips to norm 2.")

    def all_tasks(self) -> list[FullModel]:
        return [FullModel(self.model)]

    tasks = all_tasks


# intervals


@given(st.lists(st.integers(-100, 100).map(lambda percent: percent / 100), min_size=2, max_size=8))
def test_the_interval_is_that_of_the_t_test(values: list[float]):
    assume(len(set(values)) > 1)  # of equal ones scipy has none
    spread = over_seeds(values)
    expected = stats.t.interval(0.95, len(values) - 1, pd.Series(values).mean(), pd.Series(values).sem())
    assert (spread.low, spread.high) == pytest.approx(expected, abs=1e-9)
    assert spread.low <= spread.mean <= spread.high


def test_one_seed_has_a_mean_and_no_interval_of_zero_width():
    spread = over_seeds([0.5])
    assert spread.mean == 0.5
    assert math.isnan(spread.low)
    assert math.isnan(spread.high)
    assert (spread.known, spread.has_interval, spread.told_apart, spread.span) == (True, False, False, "")
    assert over_seeds([]) == pytest.approx(UNKNOWN, nan_ok=True)


def test_the_interval_of_a_share_does_not_leave_0_to_1():
    assert over_seeds([0.9, 1.0], share=True).high == 1
    assert over_seeds([0.9, 1.0]).high > 1.5


# differences


def test_differences_are_taken_seed_by_seed():
    base, other = pd.Series({0: 0.5, 1: 0.7, 2: 0.9}), pd.Series({2: 0.92, 1: 0.73, 0: 0.54, 7: 0.1})
    difference = paired(other, base)
    assert difference.mean == pytest.approx(0.03)
    assert difference.told_apart  # though either varies by far more
    assert not paired(other[[0]], base).told_apart
    assert not paired(base, base).told_apart
    assert not paired(other[[7]], base).known


def test_a_table_says_what_is_not_told_apart():
    study = study_of({"base": [0.5, 0.7], "better": [0.6, 0.801], "alike": [0.5, 0.71], "single": [0.9]})
    grid = differences_grid(study)
    entries = {row.head: row.entries[0] for row in grid.groups[""]}
    assert entries["better"] == Entry("+10.1", ("+9.4 to +10.7",))
    assert entries["alike"] == Entry("+0.5", ("-5.9 to +6.9", "not told apart"))
    assert entries["single"] == Entry("+40.0", ("not told apart",))
    assert "base" not in entries
    frame = differences_frame(study).set_index("method")
    assert frame["seeds"].to_dict() == {"alike": 2, "better": 2, "single": 1}
    assert frame["told_apart"].to_dict() == {"alike": False, "better": True, "single": False}
    assert math.isnan(frame.loc["single", "low"])


def test_untrained_networks_are_not_compared():
    study = study_of({"base": [0.1, 0.1], "idle": [0.2, 0.2], "able": [0.8, 0.9]}, costs={"base": 0, "idle": 0})
    assert list(differences(study)) == [("able", "50%")]
    entries = {row.head: row.entries[0].more for row in differences_grid(study).groups[""]}
    assert entries["idle"] == ("neither trained",)


def test_without_the_method_to_compare_with_there_is_no_table():
    study = study_of({"base": [0.1, 0.1], "other": [0.2, 0.2]}, versus="absent")
    assert not differences_grid(study).groups
    assert differences_frame(study).empty


def test_the_order_says_where_neighbours_are_told_apart():
    values = {"low": [0.1, 0.11], "none": [], "high": [0.9, 0.91], "near": [0.89, 0.92]}
    text = chain({name: pd.Series(found, dtype=float) for name, found in values.items()})
    assert text == "high 90.5, near 90.5 > low 10.5"
    assert chain({}) == ""


# what is written


def test_pages_show_best_and_final_beside_the_score(make_run: Callable[..., Run]):
    run = make_run(*({"method": "heterofl", "tier": "50%", "seed": seed, "rounds": 4} for seed in range(2)))
    (study,) = studies(run)
    final, best, score = (100 * run.cells[f"{name}_accuracy"].mean() for name in ("final", "best", "last_five"))
    (row,) = summary(study).groups[""]
    assert row.entries[0].text == f"{score:.1f} %"
    assert row.entries[0].more[0] == study.spreads("last_five_accuracy")["heterofl", "50%"].span
    assert row.entries[0].more[1:3] == (f"best {best:.1f} %", f"final {final:.1f} %")


def test_markdown_is_a_table_that_reads_the_same():
    rows = {"a | b": [GridRow("one", [Entry("1", ("more",), best=True)])]}
    lines = list(markdown(Grid("Caption", "group, row", ["two\nlines"], rows)))
    assert lines == ["| group | row | two lines |", "|---|---|---|", "| a \\| b | one | **1, more** |"]


def test_markdown_has_interval_and_participation_and_bold_only_with_seeds():
    scores = {"base": [0.5, 0.52], "other": [0.1, 0.1]}
    grid = accuracy_grid(study_of(scores))
    shown = [row.entries[0] for row in grid.groups[""]]
    assert [(entry.text, entry.more, entry.best) for entry in shown] == [
        ("51.0 %", ("[38.3 to 63.7]", "(100)"), True),
        ("10.0 %", ("[10.0 to 10.0]", "(100)"), False),
    ]
    assert "| base | **51.0 % [38.3 to 63.7] (100)** |" in list(markdown(grid))
    assert "Mean and 95 % t-interval of 2 seeds." in grid.note
    alone = accuracy_grid(study_of({name: found[:1] for name, found in scores.items()}))
    assert list(markdown(alone))[2:] == ["| base | 50.0 % (100) |", "| other | 10.0 % (100) |"]
    assert not any(row.entries[0].best for row in alone.groups[""])
    assert "Bold" not in alone.note


def test_deviations_stand_below_the_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    plug_in(monkeypatch, "profl.methods", "own", f"{__name__}:Own")
    plug_in(monkeypatch, "profl.methods", "broken", "no.such.module:Thing")
    assert deviations(["own", "broken", "absent"]) == {"own": Own.deviations}
    text = write_markdown([study_of({"own": [0.5], "absent": [0.5]})], tmp_path).read_text()
    assert text.splitlines()[-1] == "- `own`: No server momentum. Clips to norm 2."


def test_the_command_compares_with_another_method_and_draws_over_another_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plug_in(monkeypatch, "profl.methods", "heterofl", f"{__name__}:Own")
    for method in ("exclusive", "heterofl"):
        for seed in range(2):
            write_cell(tmp_path, method, "75%", seed, rounds=2)
    monkeypatch.setattr("profl.bench.report.figures.FIGURES", ())
    arguments = [str(tmp_path), "--versus", "heterofl", "--axis", "operations", "--output", str(tmp_path / "report")]
    result = CliRunner().invoke(report, arguments)
    assert result.exit_code == 0, result.output
    assert "Difference in score from heterofl, in points" in result.output
    assert "heterofl: No server momentum. Clips to norm 2." in result.output
    page = (tmp_path / "report" / "index.html").read_text()
    for said in ("Difference in score from heterofl", "<b>heterofl</b>: No server", "Order of the methods at equal"):
        assert said in page
    table = pd.read_csv(tmp_path / "report" / "differences.csv")
    assert table[["method", "versus", "seeds"]].to_numpy().tolist() == [["exclusive", "heterofl", 2]]


def test_what_cannot_be_shown_is_refused_in_one_line(run: Run):
    with pytest.raises(InputError, match="unknown method 'nobody', which cannot be compared with: choose one of"):
        next(studies(run, View(versus="nobody")))
    with pytest.raises(InputError, match="unknown axis 'round': did you mean 'rounds'"):
        next(studies(run, View(axis="round")))
    uncounted = replace(run, rounds=run.rounds.assign(operations=math.nan))
    with pytest.raises(InputError, match="did not count operations: draw over rounds or bytes"):
        next(studies(uncounted, View(axis="operations")))
    (axis,) = (option for option in report.params if option.name == "axis")
    assert list(axis.type.choices) == list(AXES)  # type: ignore[attr-defined]


def test_an_earlier_run_is_shown_by_its_rounds():
    committed = read_run(Path(__file__).parents[2] / "results" / "default")
    assert committed.cells["last_five_accuracy"].notna().all()


def test_without_the_highlight_the_first_rival_is_compared_with(make_run: Callable[..., Run]):
    run = make_run(*({"method": method, "tier": "50%", "rounds": 4} for method in ("heterofl", "exclusive")))
    (study,) = studies(run)
    assert study.versus == study.rivals[0]
    assert study.highlight not in study.methods
