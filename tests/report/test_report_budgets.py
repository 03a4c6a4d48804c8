"""Methods are compared at equal rounds, operations and bytes; what was not counted is unknown."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from profl.bench.report.axis import AXES
from profl.bench.report.budgets import budgets_frame, budgets_grid, budgets_of, scores_at_budget
from profl.bench.report.costs import costs_grid
from profl.bench.report.schedule import schedule
from profl.bench.report.study import Study
from tests.report.drawing import draw
from tests.report.small_studies import MEGABYTE, ROUNDS, study_of

SCORES = {"base": [0.5, 0.6], "dear": [0.7, 0.8], "idle": [0.1, 0.1]}
COSTS = {"base": 2e9, "dear": 5e9, "idle": 0}


@pytest.fixture
def study() -> Study:
    """Every method learns with every round: its accuracy is its score times the share of the rounds."""
    made = study_of(SCORES, costs=COSTS)
    rounds = made.rounds
    return replace(made, rounds=rounds.assign(test_accuracy=rounds["test_accuracy"] * rounds["round"] / ROUNDS))


def test_the_budget_is_the_least_that_any_run_spent_which_trained(study: Study):
    spent = {name: budgets_of(study, axis, "50%").to_dict() for name, axis in AXES.items()}
    least = {"rounds": ROUNDS, "operations": 2e9 * ROUNDS, "bytes": 2 * MEGABYTE * ROUNDS}
    assert spent == {name: {0: amount, 1: amount} for name, amount in least.items()}


def test_a_seed_in_which_little_was_spent_does_not_cut_the_others(study: Study):
    little = study.rounds["cell"].eq("base 50% 0")
    operations = study.rounds["operations"].mask(little, study.rounds["operations"] / 2)
    uneven = replace(study, rounds=study.rounds.assign(operations=operations))
    assert budgets_of(uneven, AXES["operations"], "50%").to_dict() == {0: 1e9 * ROUNDS, 1: 2e9 * ROUNDS}
    assert scores_at_budget(uneven, AXES["operations"])["dear", "50%"].tolist() == pytest.approx(
        [0.7 * 0.15, 0.8 * 0.25]
    )


def test_the_score_at_a_budget_is_the_mean_of_the_five_tests_before_it_is_spent(study: Study):
    scores = scores_at_budget(study, AXES["operations"])
    # 20e9 operations are all rounds of the one, and 4 rounds of the other.
    assert scores["base", "50%"].tolist() == pytest.approx([0.5 * 0.8, 0.6 * 0.8])
    assert scores["dear", "50%"].tolist() == pytest.approx([0.7 * 0.25, 0.8 * 0.25])
    assert scores_at_budget(study, AXES["rounds"])["dear", "50%"].tolist() == pytest.approx([0.7 * 0.8, 0.8 * 0.8])


def test_the_order_is_said_for_every_budget(study: Study):
    (rows,) = budgets_grid(study).groups.values()
    said = {row.head: [entry.text for entry in row.entries] for row in rows}
    assert said == {
        "rounds": ["10 rounds", "dear 60.0 > base 44.0"],
        "operations": ["20 × 10⁹ operations", "base 44.0, dear 18.8"],
        "bytes": ["19.07 MiB", "dear 60.0 > base 44.0"],
    }
    assert all(row.entries[1].more == ("nobody can train: idle",) for row in rows)
    frame = budgets_frame(study).set_index(["budget", "method"])
    assert frame.loc[("operations", "base"), "score"] == pytest.approx(0.44)
    assert frame.loc[("operations", "base"), "low"] < 0.44
    assert len(frame) == 9
    from_dear = budgets_frame(replace(study, versus="dear")).set_index(["budget", "method"])
    assert set(from_dear["versus"]) == {"dear"}
    lost = from_dear.loc["operations", ["difference", "difference_low", "difference_high"]]
    # Seed by seed: 0.40 - 0.175 and 0.48 - 0.2.
    assert lost.loc["base"].tolist() == pytest.approx(
        [0.2525, *(0.2525 + sign * 12.706 * 0.0275 for sign in (-1, 1))], abs=1e-4
    )
    assert lost.loc["dear"].isna().all()


def test_what_was_not_counted_is_unknown_and_never_free(study: Study):
    uncounted = replace(study, rounds=study.rounds.assign(operations=math.nan))
    (rows,) = budgets_grid(uncounted).groups.values()
    assert [entry.text for entry in rows[1].entries] == ["?", "?"]
    # One round that was not counted leaves the rest of its run unknown.
    first = study.rounds["cell"].eq("base 50% 0") & study.rounds["round"].eq(3)
    partly = replace(study, rounds=study.rounds.assign(operations=study.rounds["operations"].mask(first)))
    spent = AXES["operations"].spent(partly.rounds)
    assert spent.loc[study.rounds["cell"] == "base 50% 0"].notna().tolist() == [True] * 2 + [False] * 8
    assert budgets_of(partly, AXES["operations"], "50%").to_dict() == {0: 5e9 * ROUNDS, 1: 2e9 * ROUNDS}


def test_what_was_not_tested_before_is_said(study: Study):
    late = study.rounds["test_accuracy"].where((study.rounds["method"] != "dear") | (study.rounds["round"] > 4))
    (rows,) = budgets_grid(replace(study, rounds=study.rounds.assign(test_accuracy=late))).groups.values()
    assert rows[1].entries[1].text == "base 44.0"
    assert rows[1].entries[1].more == ("not tested by then in every seed: dear", "nobody can train: idle")


def test_a_method_that_was_tested_in_some_seeds_alone_is_in_no_order(study: Study):
    late = study.rounds["test_accuracy"].where(study.rounds["cell"].ne("dear 50% 1") | (study.rounds["round"] > 4))
    partly = replace(study, rounds=study.rounds.assign(test_accuracy=late))
    (rows,) = budgets_grid(partly).groups.values()
    assert rows[1].entries[1].text == "base 44.0"
    assert rows[1].entries[1].more[0] == "not tested by then in every seed: dear"
    frame = budgets_frame(partly).set_index(["budget", "method"])
    assert frame.loc[("operations", "dear"), "seeds"] == 1


def test_cells_that_are_not_done_are_waited_for_and_not_said_to_be_untested(study: Study):
    begun = study.cells["cell"].eq("dear 50% 1")
    waiting = replace(study, cells=study.cells.assign(status=study.cells["status"].mask(begun, "waiting")))
    (rows,) = budgets_grid(waiting).groups.values()
    assert [row.entries[1].text for row in rows] == ["base 44.0"] * 3
    assert {row.entries[1].more for row in rows} == {("not all seeds are done yet: dear", "nobody can train: idle")}
    # Nor is an order complete in which all are that any seed is done of.
    late = study.cells["seed"].eq(1)
    half = replace(study, cells=study.cells.assign(status=study.cells["status"].mask(late, "stopped")))
    (rows,) = budgets_grid(half).groups.values()
    assert rows[0].entries[1].text == "dear 56.0, base 40.0"
    assert rows[0].entries[1].more[0] == "not all seeds are done yet: base, dear"
    both = study_of(SCORES, ("50%", "70%"), COSTS)
    unrun = both.cells["method"].eq("dear") & both.cells["tier"].eq("70%")
    whole, partly = budgets_grid(replace(both, cells=both.cells.loc[~unrun])).groups.values()
    assert [rows[0].entries[1].more[0] for rows in (whole, partly)] == [
        "nobody can train: idle",
        "not all seeds are done yet: dear",
    ]


@pytest.mark.parametrize(
    ("name", "amount", "told"),
    [
        ("rounds", 180, "180 rounds"),
        ("operations", 999, "999 operations"),
        ("operations", 1.25e12, "1.25 × 10¹² operations"),
        ("operations", 1e30, "1e+06 × 10²⁴ operations"),
        ("bytes", 1536, "1.5 KiB"),
        ("bytes", math.nan, "?"),
    ],
)
def test_amounts_have_units(name: str, amount: float, told: str):
    assert AXES[name].told(amount) == told


def test_curves_can_be_drawn_over_operations(study: Study):
    over = replace(study, axis=AXES["operations"])
    figure = draw("learning_curves", over)
    lines = [line for panel in figure.axes for line in panel.lines]
    ends = {line.get_color(): max(line.get_xdata()) for line in lines if len(line.get_xdata()) == ROUNDS}
    expected = {"base": 20, "dear": 50, "idle": 0}
    assert ends == pytest.approx({study.looks[name].colour: end for name, end in expected.items()})
    assert "operations of local training (× 10⁹)" in [text.get_text() for text in figure.texts]


def test_steps_lie_where_their_rounds_do_on_any_axis(study: Study):
    phases = study.rounds["round"].map(lambda number: "early" if number <= 4 else "late")
    stepping = replace(study, rounds=study.rounds.assign(phase=phases))
    assert [(step.begin, step.end) for step in schedule(stepping, "dear", "50%")] == [(0.5, 4.5), (4.5, 10.5)]
    over = replace(stepping, axis=AXES["operations"])
    assert [(step.begin, step.end) for step in schedule(over, "dear", "50%")] == [(2.5, 22.5), (22.5, 52.5)]
    assert schedule(over, "idle", "50%") == []


def test_costs_are_those_of_the_whole_run_and_unknown_if_they_were_not_counted(study: Study):
    spent = {"base": 20e9, "dear": 50e9, "idle": 0.0}
    of_method = study.cells["method"].map(spent)
    cells = study.cells.assign(operations=of_method, uploaded_bytes=3 * 2**20, downloaded_bytes=1.5 * 2**30)
    (rows,) = costs_grid(replace(study, cells=cells)).groups.values()
    traffic = "3 MiB up, 1.5 GiB down"
    assert {row.head: [(entry.text, *entry.more) for entry in row.entries] for row in rows} == {
        "base": [("20 × 10⁹ operations", traffic)],
        "dear": [("50 × 10⁹ operations", traffic)],
        "idle": [("nobody can train",)],
    }
    (rows,) = costs_grid(replace(study, cells=cells.assign(operations=math.nan))).groups.values()
    assert [row.entries[0].text for row in rows] == ["?", "?", "nobody can train"]
