"""The table of methods: what a row holds, that it is finished where it was left, and what is drawn of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from profl.bench.cli.survey import survey
from profl.bench.data import load_dataset
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.memory.process.probe import Prober
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.operations import operations_per_step
from profl.bench.report.style import house_style, settle
from profl.bench.survey import measuring
from profl.bench.survey.drawing import draw, operations, participation, reduction
from profl.bench.survey.measuring import measured, missing
from profl.bench.survey.methods import (
    BATCH_SIZES,
    EXAMPLES,
    GPUS,
    RECIPE,
    SEARCHED_BATCH_SIZE,
    TABLE,
    Entry,
    entries,
)
from profl.bench.survey.summary import settings, write_markdown
from profl.bench.survey.table import PEAKS
from profl.bench.survey.traffic import uploaded_bytes
from tests.conftest import small_cell
from tests.report.conftest import beyond_the_sheet

STUDY = Path(__file__).parents[2] / "results/paper-memory/methods.csv"
JETSON = "virtual:jetson-orin"
SMALL = ("--model", "resnet18", "--width", "4", "--batch-size", "4", "--gpu", JETSON, "--technique", "none")
CHOSEN = ("--method", "fedavg", "--method", "profl", *SMALL)


@pytest.fixture(scope="module", autouse=True)
def _warm(prober: Prober) -> Iterator[None]:
    """Measure with the process that is warm already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "Prober", lambda: nullcontext(prober))
        yield


def profl(*arguments: object) -> Result:
    return CliRunner().invoke(survey, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two methods on a small model, and what is drawn of it."""
    path = tmp_path_factory.mktemp("study") / "methods.csv"
    result = profl("methods", *CHOSEN, "--output", path)
    assert result.exit_code == 0, result.output
    assert "11 entries, 0 failures, " in result.output
    return path


def test_every_task_is_a_row_with_bytes_operations_and_traffic(path: Path):
    table = TABLE.frame(TABLE.read(path))
    assert list(pd.read_csv(path).columns) == [*TABLE.columns, "checksum"]
    assert set(table["task"]) == {
        "full model",
        *(f"{step} {n}" for step in ("shrink", "map", "grow") for n in (2, 3, 4)),
    } | {"grow 1"}
    assert (table["peak_requested_bytes"] <= table["peak_allocated_bytes"]).all()
    assert (table["peak_allocated_bytes"] <= table["peak_reserved_bytes"]).all()
    assert table["least_budget_bytes"].isna().all()  # not searched for at this batch size
    full = table[table["task"] == "full model"].iloc[0]
    model = ModelSpec("resnet18", 4, 10)
    assert full["operations_per_step"] == operations_per_step(FullModel(model), model, replace(RECIPE, batch_size=4))
    reductions = 1 - table["peak_requested_bytes"] / full["peak_requested_bytes"]
    assert table["peak_requested_reduction"].to_numpy() == pytest.approx(reductions.to_numpy(dtype=float), abs=1e-6)
    shares = table["operations_per_step"] / full["operations_per_step"]
    assert table["operations_share"].to_numpy() == pytest.approx(shares.to_numpy(dtype=float), abs=1e-6)
    tensors = model.build().state_dict().values()
    assert full["uploaded_bytes"] == full["downloaded_bytes"] == sum(value.nbytes for value in tensors)


def test_running_again_measures_nothing_and_draws_the_same(path: Path):
    names = ["methods.csv", "results.md", "reduction-jetson-orin-4.png", "operations-resnet18-jetson-orin-4.png"]
    before = {name: (path.parent / name).read_bytes() for name in names}
    result = profl("methods", *CHOSEN, "--output", path)
    assert "11 measurements, 11 of them in" in result.output
    assert "2 figures and results.md in" in result.output  # nobody knows who takes part without least budgets
    assert {name: (path.parent / name).read_bytes() for name in names} == before


def test_drawing_only_draws_all_of_a_table_that_is_there(path: Path, tmp_path: Path):
    with pytest.raises(InputError, match="--draw-only draws the whole table: leave out --model and --width"):
        profl("methods", "--draw-only", "--model", "vit", "--width", 4, "--output", path)
    with pytest.raises(InputError, match=r"there is no .*none\.csv to draw"):
        profl("methods", "--draw-only", "--output", tmp_path / "none.csv")


def test_only_what_is_missing_or_failed_is_measured(path: Path, tmp_path: Path):
    wanted, _ = entries(["fedavg"], ["resnet18"], 4, [4], [JETSON], ["none", "micro-batch:2"])
    assert missing(wanted, TABLE, path) == wanted[1:]
    rows = [row | {"failure": "worker died"} for row in TABLE.read(path)]
    TABLE.write(rows, tmp_path / "other.csv")
    assert missing(wanted, TABLE, tmp_path / "other.csv") == wanted


def test_what_the_gpu_does_not_hold_is_a_row_with_the_reason(prober: Prober, tmp_path: Path):
    ((entry,), _) = entries(["fedavg"], ["resnet18"], 4, [10**6], [JETSON], ["none"])
    TABLE.write([measured(entry, TABLE, prober)], tmp_path / "methods.csv")
    (row,) = TABLE.read(tmp_path / "methods.csv")
    assert "out of memory" in row["failure"].lower()
    assert row["peak_requested_bytes"] is row["operations_share"] is row["uploaded_bytes"] is None
    assert not list(settings(TABLE.frame([row])))


@pytest.mark.parametrize("method", ["heterofl", "fiarse", "decomfl"])
def test_bytes_are_those_that_a_round_counts(method: str):
    """In a round in which devices train, all of them the first task and with examples of every class."""
    cell = small_cell(method, "unlimited")
    cell = replace(cell, recipe=replace(cell.recipe, devices=2, participants=2, partition="iid", rounds=1))
    experiment = Experiment.of(cell)
    federation = Federation(experiment, load_dataset(cell.dataset), {task.key: 1 for task in experiment.tasks}, 1)
    counted = [
        uploaded_bytes(
            experiment.tasks[0],
            experiment.model,
            federation.method.global_state,
            federation.context(device, 1),
            cell.recipe,
        )
        for device in range(2)
    ]
    assert federation.run_round(1)["uploaded_bytes"] == sum(counted)


def test_the_study_searches_for_budgets_where_it_says():
    wanted, refused = entries(["fedavg", "profl", "slt"], ["resnet18", "vit"], 16)
    assert not {(e.cell.model, e.cell.method) for e in wanted} & {("vit", "slt")}
    assert any("slt" in reason and "vit" in reason for reason in refused)
    first = [entry for entry in wanted if not entry.searched]
    assert wanted[: len(first)] == first
    assert len({entry.identity for entry in first}) == len(first)
    searched = {entry.identity for entry in wanted[len(first) :]}
    for entry in first:
        assert (entry.identity in searched) == (entry.cell.recipe.batch_size == SEARCHED_BATCH_SIZE)
    assert sum(_is_of(entry, "fedavg", "none") for entry in first) == 2 * len(BATCH_SIZES) * len(GPUS)
    assert {e.cell.model for e in wanted if _is_of(e, "profl", "checkpoint")} == {"resnet18"}
    assert EXAMPLES * RECIPE.devices == 50_000


def _is_of(entry: Entry, method: str, technique: str) -> bool:
    return (entry.cell.method, entry.cell.technique) == (method, technique)


def test_the_committed_study_agrees_with_the_reference():
    """As far as it has come: it may lack rows, but no row may say anything else."""
    results = Path(__file__).parents[2] / "results"
    table = TABLE.frame(TABLE.read(results / "paper-memory" / "methods.csv"))
    assert table["failure"].isna().all()
    reference = json.loads((results / "reference" / "default.json").read_text())
    alike = table[(table["gpu"] == reference["environment"]["gpu"]) & (table["technique"] == "none")]
    compared = 0
    for _, row in alike[(alike["model"] == "resnet18") & (alike["batch_size"] == 64)].iterrows():
        setting = "resnet18 width 64, 10 classes, batch 64, SGD momentum 0.9 weight decay 0.0005"
        known = reference["metrics"].get(f"{row['method']}/{row['task']} of {setting}")
        if known is None:
            continue
        compared += 1
        for name in PEAKS:
            assert pd.isna(row[name]) or row[name] == known[name], (row["method"], row["task"], name)
    assert compared >= 20


def test_figures_are_drawn_of_two_gpus_with_and_without_participation(path: Path, tmp_path: Path):
    rows = TABLE.read(path)
    known = [row | {"gpu": "virtual:t4", "least_budget_bytes": 10**8, "eligible_devices": 99} for row in rows]
    drawn = draw(TABLE.frame([*rows, *known]), tmp_path)
    assert {file.name for file in drawn} == {
        "reduction-jetson-orin-4.png",
        "operations-resnet18-jetson-orin-4.png",
        "reduction-t4-4.png",
        "operations-resnet18-t4-4.png",
        "participation-t4-4.png",
    }


def test_bold_is_what_needs_least_for_its_operations():
    """Against the definition in the figure's note, restated: forward-only methods aside, beyond 100 % all the same."""
    (setting,) = (one for one in settings(TABLE.frame(TABLE.read(STUDY))) if one.name == "jetson-orin-64")
    with house_style():
        (axes,) = operations(setting, "resnet18").axes
    bold = {name for text in axes.texts if text.get_fontweight() == "bold" for name in text.get_text().split(", ")}
    rows = setting.rows[(setting.rows["model"] == "resnet18") & (setting.rows["method"] != "decomfl")]
    done, peaks = rows["operations_share"].clip(upper=1), rows["peak_requested_bytes"]
    least = {
        contender.removeprefix("fedavg with ")
        for contender, share, peak in zip(rows["contender"], done, peaks, strict=True)
        if (peaks[done >= share] >= peak).all()
    }
    assert {"checkpoint+micro-batch:4", "cocofl", "profl"} <= bold <= least


def test_methods_with_techniques_have_figures_and_tables_of_their_own(path: Path, tmp_path: Path):
    """Also where nothing else was measured; plain rows of the same methods stand beside."""
    plain = [row for row in TABLE.read(path) if row["method"] == "profl"]
    saving = [row | {"technique": "micro-batch:2", "peak_requested_bytes": 10**6} for row in plain]
    assert plain
    for rows in (saving, plain + saving):
        drawn = draw(TABLE.frame(rows), tmp_path)
        (setting,) = (one for one in settings(TABLE.frame(rows)) if one.techniques)
        assert "reduction-jetson-orin-4-techniques.png" in {file.name for file in drawn}
        assert setting.contenders == [*["profl"] * (rows is not saving), "profl with micro-batch:2"]
        write_markdown(TABLE.frame(rows), tmp_path / "results.md")
        assert "| profl with micro-batch:2 | 1.0 |" in (tmp_path / "results.md").read_text()


def test_figures_stay_in_their_folder_whatever_a_table_says(path: Path, tmp_path: Path):
    rows = [row | {"model": "../../evil", "gpu": "virtual:../../evil"} for row in TABLE.read(path)]
    folder = tmp_path / "one" / "two"
    drawn = draw(TABLE.frame(rows), folder)
    assert {file.parent for file in drawn} == {folder}
    assert [file.name for file in tmp_path.rglob("*evil*") if file.parent != folder] == []


def test_the_dearest_task_of_budgets_is_the_one_of_the_largest(path: Path):
    """Which need not be that of the highest peak."""
    first, second, *_ = (row for row in TABLE.read(path) if row["method"] == "profl")
    rows = [
        first | {"peak_requested_bytes": 10**6, "least_budget_bytes": 10**7, "eligible_devices": 3},
        second | {"peak_requested_bytes": 10**7, "least_budget_bytes": 10**6, "eligible_devices": 30},
    ]
    (setting,) = settings(TABLE.frame(rows))
    assert setting.span("profl", "resnet18", "least_budget_bytes") == (10**7, 10**6)
    assert setting.span("profl", "resnet18", "eligible_devices") == (3, 30)
    assert setting.span("profl", "resnet18", "peak_requested_bytes") == (10**7, 10**6)


def test_figures_of_all_methods_are_all_on_their_sheets():
    with house_style():
        for setting in settings(TABLE.frame(TABLE.read(STUDY))):
            drawn = [reduction(setting)]
            if not setting.techniques:
                drawn += [operations(setting, model) for model in setting.models]
            for figure in [*drawn, *([participation(setting)] if setting.batch_size == SEARCHED_BATCH_SIZE else [])]:
                settle(figure)
                assert not list(beyond_the_sheet(figure)), setting.name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--technique", "checkpont"), "unknown technique 'checkpont'"),
        (("--model", "torchvision:resnet18"), "has no published width here: give --width"),
        (("--method", "slt", "--model", "vit", "--width", "16"), "slt cannot train vit"),
    ],
)
def test_bad_input_is_named(arguments: tuple[str, ...], named: str, tmp_path: Path):
    with pytest.raises(InputError, match=named):
        profl("methods", *arguments, "--output", tmp_path / "methods.csv")
    assert not list(tmp_path.iterdir())
