"""Tables hold what the cells hold; unknown is '?' and never 0."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from profl.bench.memory.workload import CATEGORIES
from profl.bench.report.ranking import best_methods, winners
from profl.bench.report.study import studies
from profl.bench.report.tables import closing_table, closing_text, write_tables
from profl.bench.results import CELL_COLUMNS, ROUND_COLUMNS, Run, peak_column
from tests.report.conftest import METHODS, TIERS


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables")
    write_tables(run, list(studies(run)), path)
    return path


def entry(text: str, method: str, tier: str) -> list[str]:
    """Cut one entry out of the closing table by its column's place."""
    lines = text.splitlines()
    head = next(line for line in lines if tier in line)
    end = head.index(tier) + len(tier)
    start = next(number for number, line in enumerate(lines) if line.startswith(f" {method} "))
    rows = []
    for line in lines[start:]:
        if not line.strip():
            break
        rows.append(line[: end + 1].split("  ")[-1].strip() if len(line) > end - 4 else "")
    return [row for row in rows if row]


def test_tables_have_the_columns_of_the_schema(folder: Path):
    assert list(pd.read_csv(folder / "cells.csv").columns) == list(CELL_COLUMNS)
    assert set(ROUND_COLUMNS) <= set(pd.read_csv(folder / "rounds.csv").columns)
    assert (
        len(pd.read_csv(folder / "cells.csv")) == (len(METHODS) - 1) * len(TIERS) + 1
    )  # fedavg has the same in every tier


@pytest.mark.parametrize("name", ["cells", "rounds", "footprints", "differences", "budgets"])
def test_both_formats_say_the_same(folder: Path, name: str):
    from_text, from_parquet = pd.read_csv(folder / f"{name}.csv"), pd.read_parquet(folder / f"{name}.parquet")
    pd.testing.assert_frame_equal(from_text, from_parquet, check_dtype=False)


def test_unfinished_cells_have_no_figures(folder: Path):
    cells = pd.read_csv(folder / "cells.csv")
    assert cells.loc[cells["status"] != "done", "final_accuracy"].isna().all()
    assert set(cells["status"]) == {"done", "failed", "stopped", "waiting"}


def test_counts_by_task_and_diagnostics_survive(folder: Path):
    rounds = pd.read_parquet(folder / "rounds.parquet")
    last = rounds.loc[rounds["method"] == "profl"].iloc[-1]
    assert json.loads(last["tasks"]) == {"grow 4": 4}
    assert json.loads(last["diagnostics"]) == {"effective_movement": 0.25, "movement_slope": -0.25, "would_freeze": 1}
    assert set(rounds.loc[rounds["method"] == "fedavg", "diagnostics"]) == {"{}"}


def test_footprints_have_a_column_per_category(folder: Path):
    prints = pd.read_csv(folder / "footprints.csv")
    parts = [peak_column(name) for name in CATEGORIES]
    assert (prints[parts].sum(axis="columns") == prints["peak_requested_bytes"]).all()


def cells_at(tier: str, **trained_to: list[float]) -> list[dict]:
    """Return cells of a tier that end at given accuracies, one per seed."""
    return [
        {"method": method, "seed": seed, "tier": tier, "rounds": 2, "trained_to": accuracy}
        for method, accuracies in trained_to.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def test_the_best_of_a_tier_are_those_not_told_apart_from_the_highest_mean(make_run: Callable[..., Run]):
    scores = {"exclusive": [0.2, 0.8, 0.7], "heterofl": [0.6, 0.6, 0.61], "allsmall": [0.5, 0.5, 0.51]}
    (study,) = studies(make_run(*cells_at("50%", **scores)))
    assert best_methods(study) == {"50%": ["heterofl", "exclusive"]}
    assert winners(study) == "Highest mean score: heterofl (60.3 %), not told apart from exclusive at 50%."
    text = closing_text(make_run())
    assert entry(text, "heterofl", "50%")[0] == "60.3%*"
    assert entry(text, "exclusive", "50%")[0] == "56.7%*"
    assert entry(text, "allsmall", "50%")[0] == "50.3%"


def test_with_one_seed_nothing_is_best(run: Run):
    (study,) = studies(run)
    assert best_methods(study) == {tier: [] for tier in study.tiers}
    assert winners(study) == "One seed: how far a result may be off is not known, so nothing is called better."
    assert "*" not in closing_text(run)


def test_what_one_seed_alone_finished_is_not_best(make_run: Callable[..., Run]):
    (study,) = studies(make_run(*cells_at("50%", heterofl=[0.9], exclusive=[0.6, 0.6])))
    assert best_methods(study) == {"50%": []}


def test_nobody_is_best_where_nobody_trained(make_run: Callable[..., Run]):
    (study,) = studies(make_run({"method": "exclusive", "tier": "20%", "rounds": 2}))
    assert best_methods(study) == {"20%": []}


def test_the_closing_table_tells_accuracy_participation_and_memory(run: Run):
    text = closing_text(run)
    assert entry(text, "profl", "50%") == ["92.1%", "100%", "119 MiB"]
    assert entry(text, "depthfl", "50%") == ["68.8%", "46%", "129 MiB"]


def test_the_closing_table_never_shows_the_unknown_as_zero(run: Run):
    text = closing_text(run)
    assert entry(text, "depthfl", "75%") == ["?", "failed", "10 of 30 rounds"]
    assert entry(text, "allsmall", "50%") == ["?", "waiting"]
    assert entry(text, "exclusive", "75%") == ["87.1%", "80%", "?"]
    assert entry(text, "exclusive", "20%") == ["10.0%", "0%", "nobody"]


def test_the_closing_table_of_a_usual_sweep_fits_a_terminal(run: Run):
    console = Console(width=90, color_system=None)
    with console.capture() as capture:
        console.print(closing_table(run))
    assert capture.get().count("…") == 0
    assert "87.1 MiB" in capture.get()
