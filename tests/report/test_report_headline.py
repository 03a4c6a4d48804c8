"""The first sentences of a page: computed, and no more than the seeds tell."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from profl.bench.report.differences import paired
from profl.bench.report.page.headline import memory_needed, what_came_out, what_was_run
from profl.bench.report.score import SCORE
from profl.bench.report.study import Study
from tests.report.small_studies import study_of

SCORES = {"base": [0.90, 0.91, 0.92], "near": [0.89, 0.92, 0.90], "far": [0.70, 0.71, 0.72], "none": [0.1, 0.1, 0.1]}


@pytest.fixture
def study() -> Study:
    return study_of(SCORES, costs={"none": 0})


def test_the_highest_is_named_with_its_interval_and_others_as_the_seeds_tell(study: Study):
    ((tier, sentences),) = what_came_out(study)
    best, lead = (
        study.spreads(SCORE)["base", "50%"],
        paired(study.values(SCORE)["base", "50%"], study.values(SCORE)["far", "50%"]),
    )
    assert tier.startswith("50%, ")
    assert sentences == [
        f"Highest mean score: base, {best.percent()} [{best.span}].",
        f"Not told apart from it: near {study.spreads(SCORE)['near', '50%'].percent()}.",
        f"Told apart, and behind: far by {100 * lead.mean:.1f} [{100 * lead.low:.1f} to {100 * lead.high:.1f}] points.",
        "Nobody can train: none.",
    ]


def test_with_one_seed_nothing_is_called_better():
    ((_, sentences),) = what_came_out(study_of({name: found[:1] for name, found in SCORES.items()}))
    scores = "base 90.0 %, near 89.0 %, far 70.0 %, none 10.0 %"
    assert sentences == [f"Scores: {scores}. How far they may be off is not known; none is called better."]


def test_ideals_do_not_win_and_are_counted_apart(study: Study):
    shown = replace(study, ideals=("base",))
    ((_, sentences),) = what_came_out(shown)
    assert sentences[0].startswith("Highest mean score: near, ")
    assert not any("base" in sentence for sentence in sentences)
    assert what_was_run(shown).startswith(
        "3 methods beside 1 ideal (base) trained net (width 4) on digits for 10 rounds"
    )


def test_what_is_not_known_is_said_or_left_out(study: Study):
    waiting = replace(study, cells=study.cells.assign(status="waiting", full_model_least_budget_bytes=math.nan))
    assert what_came_out(waiting)[0].sentences == ["No result yet."]
    assert memory_needed(waiting) == ""
    assert what_was_run(waiting).endswith(f" 0 of {len(study.cells)} cells are done.")
    partly = study.cells["status"].where(study.cells["seed"] == 0, "waiting")
    one_seed = replace(study, cells=study.cells.assign(status=partly))
    assert one_seed.certainty.startswith("One seed: ")
    assert ", with 1 seed, " in what_was_run(one_seed)
    partly = study.cells["status"].where(study.cells.index > 0, "waiting")
    assert replace(study, cells=study.cells.assign(status=partly)).certainty.endswith(f"of up to {study.of_seeds}.")
    silent = replace(study, cells=study.cells.assign(memory_only=True))
    assert what_came_out(silent) == []
    assert "Nothing was computed" in what_was_run(silent)


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ("virtual:t4", "the memory, measured on a virtual GPU (t4)."),
        ("cuda", "the memory, measured on cuda."),
        ("estimate:virtual:t4", "the memory, estimated, not measured, for a virtual GPU (t4)."),
    ],
)
def test_it_says_how_memory_was_found(study: Study, gpu: str, said: str):
    assert said in what_was_run(replace(study, gpu=gpu))
    assert "memory of other net, measured" in what_was_run(replace(study, measured_as="other net"))
