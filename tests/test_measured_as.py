"""Memory measured at another scale than that of training: who takes part is as there, what is learned as here."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from profl.bench.cell import MeasuredAs
from profl.bench.config import cells, experiments, read_config
from profl.bench.engine import InProcess, Job, Listener
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.fleet import eligibility
from profl.bench.measuring import measure_tasks
from profl.bench.memory.process.probe import Prober
from profl.bench.operations import operations_per_step
from profl.bench.regression import measure_all
from profl.bench.report.study import studies
from profl.bench.results import read_run
from profl.bench.results.folder import folder_of
from profl.bench.results.run import check_one_recipe
from tests.conftest import small_cell
from tests.sweeps import CONFIG, Silent, sweep

WIDER = MeasuredAs(width=4, batch_size=8)
RECIPE = replace(CONFIG.recipe, evaluate_every=2)


def test_footprints_and_shares_of_tiers_are_those_of_the_measured_scale(prober: Prober):
    cell = small_cell("heterofl", "60%", recipe=RECIPE, measured_as=WIDER)
    there = small_cell("heterofl", "60%", width=4, recipe=replace(RECIPE, batch_size=8))
    experiment = Experiment.of(cell)
    assert experiment.model.width == 2
    measured, expected = (measure_tasks(one, prober) for one in (experiment, Experiment.of(there)))
    assert measured == expected
    assert {entry["measured_width"] for entry in measured.entries(cell)} == {4}
    assert {entry["batch_size"] for entry in measured.entries(cell)} == {8}
    steps = {
        task.key: operations_per_step(task, experiment.measured_model, there.recipe)
        for task in experiment.measured_tasks
    }
    assert {entry["task"]: entry["operations_per_step"] for entry in measured.entries(cell)} == steps
    assert cell.budgets(measured.full_model_bytes)[0] == expected.full_model_bytes * 60 // 100


class Taking:
    """An engine that runs nothing, and keeps what it is given."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def run(self, jobs: Iterable[Job | None], listener: Listener) -> None:
        self.jobs = [job for job in jobs if job]


def test_operations_are_handed_over_if_they_were_counted_at_the_scale_of_training(tmp_path: Path, prober: Prober):
    given = (
        small_cell("heterofl", "60%", recipe=RECIPE),
        small_cell("heterofl", "60%", recipe=RECIPE, measured_as=WIDER),
    )
    engine = Taking()
    sweep(list(given), tmp_path, engine, prober, Silent())
    plain, scaled = engine.jobs
    assert plain.operations == measure_tasks(Experiment.of(given[0]), prober).operations
    assert not scaled.operations


def test_training_runs_at_its_own_scale_with_the_devices_of_the_other(tmp_path: Path, prober: Prober):
    cell = small_cell("heterofl", "60..110%", recipe=RECIPE, measured_as=WIDER)
    plain = small_cell("exclusive", "unlimited", recipe=RECIPE)
    sweep([cell], tmp_path / "scaled", InProcess(), prober, Silent())
    sweep([plain], tmp_path / "plain", InProcess(), prober, Silent())
    run = read_run(tmp_path / "scaled")
    measured = measure_tasks(Experiment.of(cell), prober)
    able = eligibility(cell.budgets(measured.full_model_bytes), measured.least_budgets)
    (row, _), (whole, _) = (
        folder_of(one, tmp_path / name).rounds() for one, name in ((cell, "scaled"), (plain, "plain"))
    )
    assert row["eligible_devices"] == able.any(axis=1).sum()
    assert row["downloaded_bytes"] <= whole["downloaded_bytes"]  # no more than the network of width 2
    assert run.cells["measured_as"].tolist() == ["resnet18 width 4, batch 8"]
    assert run.cells["width"].tolist() == [2]
    assert run.cells["full_model_least_budget_bytes"].tolist() == [measured.full_model_bytes]
    assert set(run.footprints["measured_width"]) == {4}
    (study,) = studies(run)
    assert len(study.footprints) == 5
    assert "resnet18 (width 2) on digits · memory of resnet18 width 4, batch 8, measured on: virtual" in study.setting
    plainly = read_run(tmp_path / "plain")
    assert pd.isna(plainly.cells.loc[0, "measured_as"])
    assert plainly.footprints[["measured_model", "measured_width"]].to_numpy().tolist() == [["resnet18", 2]]
    assert "· memory measured on: virtual" in next(studies(plainly)).setting


def test_a_task_without_a_counterpart_is_refused_before_any_work():
    with pytest.raises(
        InputError,
        match=r"task 'shrink 4' of method 'profl' on resnet18 cannot be measured as vgg11_bn width 2, batch 16, where "
        r"its tasks are shrink 3, map 3, .*: choose another model in measured_as",
    ):
        Experiment.of(small_cell("profl", recipe=replace(RECIPE, rounds=10), measured_as=MeasuredAs(model="vgg11_bn")))
    # Whoever has the same tasks on both may be measured as either.
    assert (
        Experiment.of(small_cell("fedavg", measured_as=MeasuredAs(model="vgg11_bn"))).measured_model.name == "vgg11_bn"
    )
    with pytest.raises(InputError, match="unknown model 'resnet19'"):
        Experiment.of(small_cell(measured_as=MeasuredAs(model="resnet19")))


def test_it_is_a_table_of_a_sweeps_file(tmp_path: Path):
    path = tmp_path / "study.toml"
    grid = {"method": ["exclusive"], "model": ["resnet18"], "width": [2], "dataset": ["digits"], "tier": ["1MB"]}
    lines = [f"{name} = {values!r}" for name, values in grid.items()]
    text = "\n".join(["gpu = 'virtual:t4'", "[measured_as]", "width = 64", "[grid]", *lines, "seed = [0]"])
    path.write_text(text)
    (one,) = experiments(read_config(path))
    assert (one.model.width, one.measured_model.width) == (2, 64)
    path.write_text(text.replace("width = 64", "widht = 64"))
    with pytest.raises(InputError, match=r"unknown key 'measured_as.widht': did you mean 'width'"):
        read_config(path)


def test_the_memory_of_a_training_that_is_recorded_is_not_that_of_another_scale():
    with pytest.raises(InputError, match="memory_only records the memory of the training itself"):
        cells(replace(CONFIG, memory_only=True, measured_as=WIDER))


def test_two_scales_do_not_stand_side_by_side():
    with pytest.raises(
        InputError, match=r"would mix cells with measured_as = None and MeasuredAs\(model=None, width=4"
    ):
        check_one_recipe(Path("run"), [small_cell(), small_cell(measured_as=WIDER)])


def test_a_reference_names_the_command_that_measures_at_that_scale(prober: Prober):
    grid = replace(CONFIG.grid, method=["exclusive"], tier=["100%"])
    measured = measure_all(replace(CONFIG, grid=grid, measured_as=WIDER), prober)
    (command,) = measured["commands"].values()
    assert "--width 4 --batch-size 8 " in command
