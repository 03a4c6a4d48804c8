"""The round loop: who takes part, what is counted, and that a run is the same fresh or resumed."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from profl.baselines.width import WidthTask
from profl.bench.cell import Cell
from profl.bench.data import load_dataset
from profl.bench.data.held_out import held_out
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation, run_cell
from profl.bench.method import FullModel, TestedNetwork, filled
from profl.bench.operations import operations_per_example
from profl.bench.randomness import torch_generator
from profl.bench.results import ROUND_COLUMNS, CellFolder
from profl.bench.training import evaluate
from tests.conftest import SMALL_RECIPE, small_cell

MB = 10**6
METHODS = ("fedavg", "exclusive", "allsmall", "heterofl", "depthfl", "inclusivefl", "profl")


def federation(cell: Cell, least_budgets: Mapping[str, int] | None = None) -> Federation:
    """Return a federation whose tasks need what is given, or nothing."""
    experiment = Experiment.of(cell)
    needs = least_budgets or {task.key: 1 for task in experiment.tasks}
    return Federation(experiment, load_dataset(cell.dataset), needs, full_model_bytes=100 * MB)


def without_clock(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in ("seconds", "attempt")} for row in rows]


def run(cell: Cell, path: Path, stop_after: int | None = None) -> list[dict]:
    """Run a cell; with ``stop_after``, be interrupted after that many rounds."""
    folder = CellFolder(path)
    if not (path / "cell.json").exists():
        folder.begin(cell.to_dict())
    needs = federation(cell).least_budgets

    def on_round(row: dict) -> None:
        if row["round"] == stop_after:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run_cell(Experiment.of(cell), folder, needs, 100 * MB, on_round)
    return without_clock(folder.rounds())


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_equals_a_fresh_one_to_the_bit(method: str, tmp_path: Path):
    cell = small_cell(method, "120MB")
    fresh = run(cell, tmp_path / "fresh")
    assert len(fresh) == cell.recipe.rounds
    for stop in (3, 7):
        run(cell, tmp_path / "resumed", stop_after=stop)
    assert run(cell, tmp_path / "resumed") == fresh
    attempts = [row["attempt"] for row in CellFolder(tmp_path / "resumed").rounds()]
    assert attempts == [1] * 3 + [2] * 4 + [3] * (len(fresh) - 7)


@pytest.mark.parametrize(
    ("method", "options", "counted"),
    [
        ("neulite", {}, {"finished_rounds": 2}),
        ("progfed", {"warm_up_rounds": 0}, {"position": 2, "spent": 0, "left_over": 0}),
    ],
)
def test_a_checkpoint_that_also_counts_its_rounds_is_gone_on_with(
    method: str, options: dict, counted: dict, tmp_path: Path
):
    """As methods once did for themselves: the count is the harness's now."""
    recipe = replace(SMALL_RECIPE, rounds=4, participants=1, evaluate_every=4)
    cell = small_cell(method, recipe=recipe, options=options)
    fresh = run(cell, tmp_path / "fresh")
    assert len({row["phase"] for row in fresh}) == 4
    run(cell, tmp_path / "resumed", stop_after=2)
    path = tmp_path / "resumed" / "checkpoint.pt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["method"].keys() == {"global_state"}
    del checkpoint["checksum"]
    torch.save({**checkpoint, "method": {**checkpoint["method"], **counted}}, path)
    assert run(cell, tmp_path / "resumed") == fresh


def test_a_method_is_told_how_many_rounds_are_over():
    fleet, counts = federation(small_cell()), []
    tasks = fleet.method.tasks
    fleet.method.tasks = lambda: counts.append(fleet.method.finished_rounds) or tasks()  # type: ignore[method-assign]
    for number in (1, 2, 7):
        fleet.run_round(number)
    assert counts == [0, 1, 6]


def test_a_cell_begun_under_other_rules_is_not_gone_on_with(tmp_path: Path):
    cell = small_cell()
    run(cell, tmp_path, stop_after=2)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del checkpoint["trained"], checkpoint["checksum"]
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="begun by a version that tested by other rules: delete"):
        run(cell, tmp_path)


def test_rows_have_the_stated_columns_and_plausible_values():
    row = federation(small_cell("heterofl", "10..200MB")).run_round(5)
    assert {*row, "attempt"} == {*ROUND_COLUMNS, "tasks", "diagnostics", "usages"}
    assert row["participants"] == sum(row["tasks"].values()) == SMALL_RECIPE.participants
    assert 0 <= row["test_accuracy"] <= 1
    assert row["uploaded_bytes"] > 0


def test_every_device_trains_the_first_offered_task_that_fits():
    cell = small_cell("heterofl", "10..200MB", recipe=replace(SMALL_RECIPE, devices=12, participants=12))
    needs = {
        "subnetwork 1": 150 * MB,
        "subnetwork 1/2 scaled": 90 * MB,
        "subnetwork 1/4 scaled": 40 * MB,
        "subnetwork 1/8 scaled": 30 * MB,
        "subnetwork 1/16 scaled": 20 * MB,
    }
    fleet = federation(cell, needs)
    row = fleet.run_round(1)
    able = [max(need for need in needs.values() if need <= budget) for budget in fleet.budgets if budget >= 20 * MB]
    expected = {key: able.count(need) for key, need in needs.items() if able.count(need)}
    assert row["tasks"] == expected
    assert row["eligible_devices"] == len(able)
    assert row["devices_out_share"] == pytest.approx(1 - len(able) / 12)


def test_where_nothing_fits_nobody_trains_and_nothing_changes():
    fleet = federation(small_cell("exclusive", "50MB"), {"full model": 51 * MB})
    before = {name: value.clone() for name, value in fleet.method.global_state.items()}
    row = fleet.run_round(1)
    assert row["participants"] == row["uploaded_bytes"] == row["downloaded_bytes"] == 0
    assert row["devices_out_share"] == row["data_out_share"] == row["classes_out_share"] == 1
    assert math.isnan(row["train_loss"])
    assert all(torch.equal(before[name], value) for name, value in fleet.method.global_state.items())


def test_a_task_that_was_not_announced_is_named():
    fleet = federation(small_cell("exclusive", "50MB"), {"full model": 1})
    fleet.least_budgets = {}
    with pytest.raises(InputError, match="method 'exclusive' offers the task 'full model', which its all_tasks"):
        fleet.run_round(1)


def test_a_method_hears_how_many_took_part(monkeypatch: pytest.MonkeyPatch):
    heard: list[int] = []
    for needed in (51 * MB, 50 * MB):
        fleet = federation(small_cell("exclusive", "50MB"), {"full model": needed})
        monkeypatch.setattr(fleet.method, "finish_round", lambda summary: heard.append(summary.participants))
        fleet.run_round(1)
    assert heard == [0, SMALL_RECIPE.participants]


def test_a_budget_of_exactly_the_least_suffices():
    assert federation(small_cell("exclusive", "50MB"), {"full model": 50 * MB}).run_round(1)["participants"] == 3


def test_full_model_bytes_uploaded_are_counted():
    fleet = federation(small_cell())
    row = fleet.run_round(1)
    model_bytes = sum(value.nbytes for value in fleet.method.global_state.values())
    assert row["uploaded_bytes"] == row["downloaded_bytes"] == 3 * model_bytes


def test_operations_are_those_of_every_participants_examples():
    """Of two tasks: whoever can trains the full model, the others a network of half its width."""
    recipe = replace(SMALL_RECIPE, devices=12, participants=12, local_epochs=3)
    cell = small_cell("allsmall", "20..200MB", recipe=recipe)
    fleet = federation(cell, {f"width {rate}": MB for rate in ("1", "1/2", "1/4", "1/8", "1/16")})
    model = fleet.method.model
    assert fleet.run_round(1)["operations"] == 3 * 1437 * operations_per_example(WidthTask(model), model, recipe)
    mixed = federation(
        small_cell("heterofl", "50..100MB", recipe=recipe),
        {"subnetwork 1": 75 * MB, **{f"subnetwork 1/{part} scaled": 1 for part in (2, 4, 8, 16)}},
    )
    per_example = {task.key: operations_per_example(task, model, recipe) for task in mixed.method.all_tasks()}
    expected = sum(
        3 * len(examples) * per_example["subnetwork 1" if budget >= 75 * MB else "subnetwork 1/2 scaled"]
        for examples, budget in zip(mixed.partition, mixed.budgets, strict=True)
    )
    row = mixed.run_round(1)
    assert len(row["tasks"]) == 2
    assert row["operations"] == expected
    assert federation(small_cell("exclusive", "50MB"), {"full model": 51 * MB}).run_round(1)["operations"] == 0


def test_ideal_and_exclusive_agree_where_everybody_fits():
    ideal, exclusive = federation(small_cell()), federation(small_cell("exclusive", "50MB"))
    for number in (1, 2):
        (one,), (other,) = (
            without_clock([ideal.run_round(number)]),
            without_clock([exclusive.run_round(number)]),
        )
        one.pop("tasks"), other.pop("tasks")
        assert one == other


def test_allsmall_hears_what_the_weakest_device_can_train():
    needs = {
        "width 1": 90 * MB,
        "width 1/2": 60 * MB,
        "width 1/4": 40 * MB,
        "width 1/8": 30 * MB,
        "width 1/16": 20 * MB,
    }
    fleet = federation(small_cell("allsmall", "60..100MB"), needs)
    assert [task.key for task in fleet.method.tasks()] == ["width 1/2"]


def test_participants_are_drawn_anew_each_round_from_those_who_can():
    cell = small_cell("exclusive", "10..200MB")
    fleet = federation(cell, {"full model": 100 * MB})
    able = [device for device, budget in enumerate(fleet.budgets) if budget >= 100 * MB]
    draws = [fleet.draw(able, number) for number in range(1, 30)]
    assert all(set(draw) <= set(able) and len(set(draw)) == 3 for draw in draws)
    assert len({device for draw in draws for device in draw}) > len(able) / 2
    assert draws != [draws[0]] * len(draws)


def test_tests_only_when_asked_and_always_at_the_end(tmp_path: Path):
    cell = small_cell(recipe=replace(SMALL_RECIPE, rounds=5, evaluate_every=2))
    rows = run(cell, tmp_path / "cell")
    assert [row["test_accuracy"] is not None for row in rows] == [False, True, False, True, True]


def test_what_is_held_out_is_tested_and_on_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cell = small_cell(recipe=replace(SMALL_RECIPE, rounds=1, held_out_share=0.2))
    whole = load_dataset("digits")
    mask = held_out(whole.train_targets.numpy(), 0.2, cell.seed)
    tested: list[torch.Tensor] = []
    monkeypatch.setattr(
        "profl.bench.federation.evaluate", lambda model, inputs, targets: tested.append(targets) or (0.0, 1.0)
    )
    (row,) = run(cell, tmp_path / "cell")
    assert tested
    assert all(torch.equal(targets, whole.train_targets[torch.from_numpy(mask)]) for targets in tested)
    # Three devices of 90 train, each with its share of the rest.
    most = 3 * math.ceil((~mask).sum() / 90)
    task = FullModel(Experiment.of(cell).model)
    assert row["operations"] <= most * operations_per_example(task, task.model, cell.recipe)


def test_a_summary_of_a_run_in_which_nobody_trained_names_no_task(tmp_path: Path):
    cell = small_cell("exclusive", "50MB", recipe=replace(SMALL_RECIPE, rounds=2))
    folder = CellFolder(tmp_path / "cell")
    folder.begin(cell.to_dict())
    run_cell(Experiment.of(cell), folder, {"full model": 51 * MB}, 51 * MB, lambda row: None)
    summary = folder.summary()
    assert summary["dearest_trained_budget_bytes"] is None
    assert summary["participation_share"] == 0
    assert summary["mean_device_budget_bytes"] == 50 * MB
    assert summary["final_accuracy"] == folder.rounds()[-1]["test_accuracy"]


def test_a_summary_sums_and_averages_the_rounds_and_gives_the_dearest_task(tmp_path: Path):
    """A stage that few can train beside one that all can: no figure of the summary is that of a single round."""
    cell = small_cell("profl", "60..100MB")
    folder = CellFolder(tmp_path / "cell")
    folder.begin(cell.to_dict())
    keys = federation(cell).least_budgets
    needs = {key: 80 * MB if key.startswith("shrink") else 10 * MB + place for place, key in enumerate(keys)}
    needs["grow 1"] = 99 * MB
    run_cell(Experiment.of(cell), folder, needs, 100 * MB, lambda row: None)
    rows, summary = folder.rounds(), folder.summary()
    able = {row["eligible_devices"] for row in rows}
    assert len(able) > 1
    assert summary["participation_share"] == pytest.approx(
        sum(row["eligible_devices"] for row in rows) / 90 / len(rows)
    )
    assert summary["data_out_share"] == pytest.approx(sum(row["data_out_share"] for row in rows) / len(rows))
    assert summary["classes_out_share"] == pytest.approx(sum(row["classes_out_share"] for row in rows) / len(rows))
    assert summary["uploaded_bytes"] == sum(row["uploaded_bytes"] for row in rows) > rows[-1]["uploaded_bytes"]
    assert summary["downloaded_bytes"] == sum(row["downloaded_bytes"] for row in rows)
    assert summary["operations"] == sum(row["operations"] for row in rows) > 0
    trained = {key for row in rows for key in row["tasks"]}
    assert (
        summary["dearest_trained_budget_bytes"]
        == max(needs[key] for key in trained)
        != min(needs[key] for key in trained)
    )
    tested = {row["test_accuracy"]: row["round"] for row in reversed(rows) if row["test_accuracy"] is not None}
    assert summary["best_accuracy"] == max(tested)
    assert summary["best_round"] == tested[max(tested)]


def test_what_is_sent_back_is_counted_apart_from_what_is_received():
    """Of HeteroFL's last layer a device receives all rows and sends those of its own classes only."""
    recipe = replace(SMALL_RECIPE, devices=40, partition="shards:1")
    row = federation(small_cell("heterofl", "50MB", recipe=recipe)).run_round(1)
    assert 0 < row["uploaded_bytes"] < row["downloaded_bytes"]


@pytest.fixture
def recalibrated(monkeypatch) -> list[tuple]:
    """What every re-estimation of BatchNorm statistics is given."""
    given: list[tuple] = []
    monkeypatch.setattr("profl.bench.federation.recalibrate_batchnorm", lambda *arguments: given.append(arguments))
    return given


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_statistics_are_estimated_anew_on_the_same_sample_in_batches_of_training(method, recalibrated):
    fleet = federation(small_cell(method, "50MB"))
    for number in (5, 10):
        fleet.run_round(number)
    (_, first, size), (_, second, _) = recalibrated
    assert torch.equal(first, second)
    assert size == SMALL_RECIPE.batch_size
    order = torch.randperm(1437, generator=torch_generator(0, "recalibration"))[:512]
    assert torch.equal(first, fleet.dataset.train_inputs[order])


def test_the_sample_is_of_devices_that_can_train_something(recalibrated):
    fleet = federation(small_cell("exclusive", "10..200MB"), {"full model": 150 * MB})
    able = [part for part, budget in zip(fleet.partition, fleet.budgets, strict=True) if budget >= 150 * MB]
    held = set(np.concatenate(able).tolist())
    assert set(fleet.sample.tolist()) <= held
    assert len(fleet.sample) == min(512, len(held))


def test_where_nobody_can_train_there_is_no_sample_and_statistics_stay(recalibrated):
    fleet = federation(small_cell("exclusive", "50MB"), {"full model": 51 * MB})
    row = fleet.run_round(5)
    assert len(fleet.sample) == len(recalibrated) == 0
    assert row["test_accuracy"] == row["raw_test_accuracy"]


def test_the_raw_accuracy_is_that_of_the_trained_statistics_and_unknown_where_none_are_kept():
    fleet = federation(small_cell("fedavg"))
    row = fleet.run_round(5)
    model = filled(fleet.method.model.build, fleet.method.global_state)
    _, accuracy = evaluate(model, fleet.dataset.test_inputs, fleet.dataset.test_targets)
    assert row["raw_test_accuracy"] == accuracy
    assert math.isnan(federation(small_cell("heterofl", "50MB")).run_round(5)["raw_test_accuracy"])


@pytest.mark.parametrize(
    ("method", "able", "shown"),
    [
        ("heterofl", "subnetwork 1/4 scaled", "width 1/4"),
        ("depthfl", "depth 2", "depth 2"),
        ("inclusivefl", "depth 3", "depth 3"),
        ("allsmall", "width 1/8", "width 1/8"),
    ],
)
def test_what_is_tested_is_the_most_complete_network_that_was_trained(method, able, shown):
    """And it stays so when a later round trains less of it."""
    cell = small_cell(method, "50MB", recipe=replace(SMALL_RECIPE, evaluate_every=1))
    keys = list(federation(cell).least_budgets)
    fleet = federation(cell, {key: (50 if key == able else 60) * MB for key in keys})
    assert fleet.run_round(1)["tested"] == shown
    fleet.least_budgets = {key: (50 if key == keys[-1] else 60) * MB for key in keys}
    if method != "allsmall":
        assert fleet.run_round(2)["tested"] == shown


def test_profl_is_tested_as_far_as_it_was_trained():
    """The last block trains nowhere: the network of the step before is the one that was learned."""
    recipe = replace(SMALL_RECIPE, rounds=8, evaluate_every=1)
    cell = small_cell("profl", "50MB", recipe=recipe, options={"shrinking": False, "pace": "equal"})
    keys = federation(cell).least_budgets
    fleet = federation(cell, {key: (60 if key == "grow 4" else 50) * MB for key in keys})
    tested = [fleet.run_round(number)["tested"] for number in range(1, 9)]
    assert tested == [f"{blocks} of 4 blocks" for blocks in (1, 1, 2, 2, 3, 3, 3, 3)]


def test_where_nothing_was_trained_the_whole_network_is_tested():
    fleet = federation(
        small_cell("heterofl", "1MB"), dict.fromkeys(federation(small_cell("heterofl")).least_budgets, MB + 1)
    )
    assert fleet.run_round(5)["tested"] == "width 1"


def test_the_gradients_norm_is_recorded_at_tests_if_asked_for():
    cell = small_cell("profl", recipe=replace(SMALL_RECIPE, evaluate_every=2, gradient_norm=True))
    fleet = federation(cell)
    first, second = (fleet.run_round(number)["gradient_norm"] for number in (1, 2))
    assert math.isnan(first)
    assert second > 0
    assert cell.folder_name != small_cell("profl", recipe=replace(SMALL_RECIPE, evaluate_every=2)).folder_name


def test_the_gradient_is_that_of_the_task_the_round_trained(monkeypatch: pytest.MonkeyPatch):
    keys: list[str] = []
    monkeypatch.setattr("profl.bench.federation.gradient_norm", lambda task, *_: keys.append(task.key) or 1.0)
    fleet = federation(small_cell("profl", recipe=replace(SMALL_RECIPE, evaluate_every=1, gradient_norm=True)))
    phases = [fleet.run_round(number)["phase"] for number in range(1, 4)]  # each the last round of a step
    assert phases == [f"{key}/4" for key in keys] == ["shrink 4/4", "map 4/4", "shrink 3/4"]


def test_the_network_that_was_trained_is_tested_before_the_schedule_moves_on():
    fleet = federation(small_cell("profl", recipe=replace(SMALL_RECIPE, evaluate_every=1)))
    tested: list[str] = []
    networks = fleet.method.tested_networks

    def watched() -> Sequence[TestedNetwork]:
        tested.append(fleet.method.phase)
        return networks()

    fleet.method.tested_networks = watched
    phases = [fleet.run_round(number)["phase"] for number in range(1, 11)]
    assert tested == phases
    assert len(set(phases)) == 10
