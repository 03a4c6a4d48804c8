"""What a dry run tells is what the run then takes, and telling it trains and writes nothing."""

import json
import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from profl.bench.cell import Cell
from profl.bench.cli.sweep_output import in_words
from profl.bench.config import experiments, override, read_config
from profl.bench.data import load_dataset
from profl.bench.engine import InProcess
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.forecast import forecast, forecasts, operations_per_second
from profl.bench.measuring import Measured
from profl.bench.memory.process.probe import Prober
from profl.bench.method import FullModel, Method, Task
from profl.bench.operations import operations_per_example
from profl.bench.presets import preset, presets
from profl.bench.registry import create_method
from profl.bench.results.folder import CellFolder, cell_folders, folder_of
from profl.bench.results.record import read_record
from profl.bench.sweep import run_sweep
from tests.conftest import SMALL_RECIPE, small_cell
from tests.sweeps import Silent
from tests.test_cli import SMALL, profl

RECIPE = replace(SMALL_RECIPE, rounds=10, devices=40, participants=2, partition="shards:1", evaluate_every=10)


@pytest.mark.parametrize("method", ["heterofl", "profl"])
def test_a_forecast_is_what_the_run_takes(method: str, tmp_path: Path, prober: Prober):
    """HeteroFL's devices send the rows of their own classes alone; ProFL's rounds have different tasks."""
    options = {"pace": "equal"} if method == "profl" else {}
    experiment = Experiment.of(small_cell(method, "80..104%", recipe=RECIPE, options=options))
    (told,) = forecasts([experiment], prober)
    run_sweep([experiment], tmp_path, InProcess(), prober, Silent())
    folder = folder_of(experiment.cell, tmp_path)
    summary, rows = folder.summary(), folder.rounds()
    assert 0 < told.participation_share == pytest.approx(summary["participation_share"])
    assert 0 < told.operations == summary["operations"]
    assert 0 < told.uploaded_bytes == summary["uploaded_bytes"]
    assert 0 < told.downloaded_bytes == summary["downloaded_bytes"]
    if method == "profl":
        assert rows[-1]["eligible_devices"] == told.eligible_devices["grow 4"]
    else:
        assert {row["eligible_devices"] for row in rows} == {max(told.eligible_devices.values())}


def test_a_method_that_fails_in_a_round_is_named_in_one_line(prober: Prober, monkeypatch: pytest.MonkeyPatch):
    experiment = Experiment.of(small_cell("heterofl", "80..104%", recipe=RECIPE))

    def tasks(self: Method) -> list[Task]:
        return [self.all_tasks()[1 // 0]]

    monkeypatch.setattr(type(create_method("heterofl", experiment.model, 1, 0)), "tasks", tasks)
    with pytest.raises(InputError, match=r"method 'heterofl' fails where .* ZeroDivisionError: integer division"):
        list(forecasts([experiment], prober))


COMMITTED = [
    folder
    for folder in cell_folders(Path(__file__).parents[1] / "results/claims/digits-iid")
    if folder.path.name.endswith(f"seed0-{folder.path.name[-8:]}") and not folder.path.name.startswith("profl-")
]
"""Runs of every method but ProFL, the steps of which end when training says so."""


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.path.name)
def test_committed_runs_took_what_is_told_today(folder: CellFolder):
    """So that a change of how operations and bytes are counted does not leave the committed figures behind."""
    record = read_record(folder)
    least = {entry["task"]: entry["least_budget_bytes"] for entry in record.footprints}
    measured = Mock(Measured, least_budgets=least, full_model_bytes=record.summary["full_model_least_budget_bytes"])
    told = forecast(Experiment.of(record.cell), load_dataset(record.cell.dataset), measured)
    assert told.operations == record.summary["operations"] == sum(row["operations"] for row in record.rounds)
    assert told.downloaded_bytes == record.summary["downloaded_bytes"]
    if not math.isnan(told.uploaded_bytes):  # what some methods send depends on values
        assert told.uploaded_bytes == record.summary["uploaded_bytes"]


def test_operations_a_second_are_those_of_whole_steps():
    experiment = Experiment.of(small_cell())
    model = experiment.model
    # No machine does a million examples of this network a second in one thread, or fewer than one.
    per_example = operations_per_example(FullModel(model), model, experiment.cell.recipe)
    assert 1 < operations_per_second(experiment) / per_example < 10**6


@pytest.mark.usefixtures("commands_are_warm")
def test_a_dry_run_prints_what_is_to_come_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace('"fedavg", "heterofl"', '"exclusive"') + "[measured_as]\nwidth = 4\n")
    monkeypatch.chdir(tmp_path)
    done = profl("sweep", "--config", path, "--dry-run", "--workers", 2)
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "least memory of resnet18 width 4, batch 8 in MiB" in text
    assert "2 cells, " in text
    assert "of one worker" in text
    assert "its rounds then go to later steps, which may send and compute more." in text
    lines = [json.loads(line) for line in profl("sweep", "--config", path, "--dry-run", "--json").stdout.splitlines()]
    assert [(line["event"], line["tier"]) for line in lines] == [("planned", "40%"), ("planned", "100%")]
    assert [line["tasks"]["full model"]["eligible_devices"] for line in lines] == [0, 10]
    assert lines[0]["operations"] == 0 < lines[1]["operations"]
    assert 0 < lines[0]["testing_operations"] < lines[1]["testing_operations"]  # nobody holds a sample at 40 %
    assert lines[0]["hours"] < lines[1]["hours"]
    assert list(tmp_path.iterdir()) == [path]


PAPER = [name for name in presets() if name.startswith("paper-")]


def test_the_presets_at_full_scale_differ_in_how_data_is_dealt():
    configs = {name: read_config(preset(name)) for name in PAPER}
    assert {name: config.recipe.partition for name, config in configs.items()} == {
        "paper-dirichlet": "dirichlet:0.5",
        "paper-iid": "iid",
        "paper-shards": "shards:2",
    }
    same = {str(replace(config, recipe=replace(config.recipe, partition="iid"))) for config in configs.values()}
    assert len(same) == 1


@pytest.mark.parametrize("name", PAPER)
def test_a_preset_at_full_scale_is_told_and_begun_in_a_short_form(name: str, tmp_path: Path, prober: Prober):
    grid = {"width": [2], "dataset": ["digits"], "method": ["heterofl", "profl"]}
    short = {"rounds": 10, "devices": 20, "participants": 2, "batch_size": 16, "local_epochs": 1}
    config = override(read_config(preset(name)), grid, gpu="virtual:jetson-orin", **short)
    possible = experiments(config)
    assert all(told.operations > 0 for told in forecasts(possible, prober))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(possible, tmp_path, InProcess(), prober, Stopping())
    begun = folder_of(possible[0].cell, tmp_path)
    assert (begun.status, len(begun.rounds())) == ("stopped", 2)


class Stopping(Silent):
    """A person who presses Ctrl-C after the second round."""

    def round(self, cell: Cell, row: dict) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("hours", "words"),
    [(1 / 3600, "1 s"), (0.02, "72 s"), (1.5, "90 min"), (2.25, "2.2 h"), (100, "100 h"), (math.nan, "?")],
)
def test_a_time_has_a_unit_that_suits_it(hours: float, words: str):
    assert in_words(hours) == words
