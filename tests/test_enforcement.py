"""Where training runs on a GPU, each device's budget really limits it. The virtual GPU plays the physical one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest
import torch

import profl.bench.memory.gpu.unmodelled
from profl.bench.cell import Cell, Recipe
from profl.bench.data import load_dataset
from profl.bench.engine.ray_task import within_share
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation, RoundRow
from profl.bench.measuring import measure_tasks
from profl.bench.memory.errors import MeasurementFailed
from profl.bench.memory.limit import memory_limit
from profl.bench.memory.process.probe import Prober
from tests.conftest import small_cell

GPU = "virtual:jetson-orin"
RECIPE = Recipe(rounds=2, devices=12, participants=3, partition="iid", batch_size=16, local_epochs=1, evaluate_every=2)


@dataclass(frozen=True)
class Rounds:
    """Two rounds of a federation on 'cuda', run where the virtual GPU is loaded.

    Parameters
    ----------
    budgets
        What the devices really have, where that is not what the tier says.
    most_reads
        After how many reads in one place a loop counts as endless.
    """

    cell: Cell
    least_budgets: dict[str, int]
    budgets: tuple[int, ...] = ()
    most_reads: int = 20_000
    key: str = "two rounds"

    def run(self, device: torch.device, report: Callable[[object], None]) -> list[RoundRow]:
        fleet = Federation(Experiment.of(replace(self.cell, gpu="cuda")), load_dataset("digits"), self.least_budgets, 1)
        fleet.budgets = list(self.budgets) or fleet.budgets
        with patch.object(profl.bench.memory.gpu.unmodelled, "MOST_READS", self.most_reads):
            return [fleet.run_round(number) for number in (1, 2)]


def two_rounds(prober: Prober, program: Rounds) -> list[RoundRow]:
    rows: list[RoundRow] = prober.run(program, GPU, lambda row: None)
    for row in rows:
        assert row["participants"] + row["out_of_memory_devices"] == RECIPE.participants
        # Where training runs on a GPU, the memory of every participant is in the row.
        assert len(row["usages"]) == row["participants"] == sum(row["tasks"].values())
    return rows


@pytest.mark.parametrize("method", ["exclusive", "inclusivefl", "profl"])
def test_devices_train_in_their_least_budget_and_not_in_much_less(method: str, prober: Prober):
    cell = small_cell(method, width=8, recipe=replace(RECIPE, rounds=12 if method == "profl" else 2))
    least = measure_tasks(Experiment.of(cell), prober).least_budgets
    budget = least[next(iter(least))]
    for row in two_rounds(prober, Rounds(replace(cell, tier=f"{budget}B"), least)):
        assert row["out_of_memory_devices"] == 0
        assert 0 < row["peak_requested_bytes"] <= row["peak_reserved_bytes"] <= budget
        assert row["held_bytes"] == 0
    # Training frees each batch before the next, so it may get by with a little less than was measured.
    too_little = replace(cell, tier=f"{budget * 3 // 4}B")
    for row in two_rounds(prober, Rounds(too_little, dict.fromkeys(least, 1))):
        assert row["out_of_memory_devices"] == RECIPE.participants
        assert row["uploaded_bytes"] == row["operations"] == 0


def test_a_device_that_runs_out_of_memory_harms_no_other(prober: Prober):
    cell = small_cell("exclusive", width=8, recipe=RECIPE)
    least = measure_tasks(Experiment.of(cell), prober).least_budgets
    (enough,) = least.values()
    cell = replace(cell, tier=f"{enough}B")
    all_train = two_rounds(prober, Rounds(cell, least))
    first = all_train[0]["usages"][0]["device"]
    budgets = tuple(enough // 2 if device == first else enough for device in range(RECIPE.devices))
    some_train = two_rounds(prober, Rounds(cell, dict.fromkeys(least, 1), budgets))
    assert some_train[0]["out_of_memory_devices"] == 1
    assert some_train[0]["usages"] == all_train[0]["usages"][1:]
    assert [row["held_bytes"] for row in some_train] == [0, 0]


def test_what_many_devices_read_is_no_endless_loop(prober: Prober):
    cell = small_cell("exclusive", width=8, recipe=RECIPE)
    (task,) = Experiment.of(cell).tasks
    values = len(task.build().state_dict())  # a device reads each once, and fewer losses
    rows = two_rounds(prober, Rounds(cell, {task.key: 1}, most_reads=values))
    assert [row["out_of_memory_devices"] for row in rows] == [0, 0]
    with pytest.raises(MeasurementFailed, match="end the loop by a count"):
        two_rounds(prober, Rounds(cell, {task.key: 1}, most_reads=values - 1))


@dataclass(frozen=True)
class Allocations:
    """Whether so many bytes can be had under one limit within another, after the inner one, and after both."""

    key: str = "allocations"

    def run(self, device: torch.device, report: Callable[[object], None]) -> list[bool]:
        def holds(size: int) -> bool:
            try:
                torch.empty(size, dtype=torch.uint8, device=device)
            except torch.OutOfMemoryError:
                return False
            return True

        found = []
        with memory_limit(device, 64 << 20):
            with memory_limit(device, 1 << 30):
                found += [holds(32 << 20), holds(100 << 20)]
            found += [holds(32 << 20), holds(100 << 20)]
        found.append(holds(100 << 20))
        with within_share(0.25):  # of 16 GiB, with the context
            found += [holds(2 << 30), holds(3500 << 20)]
        return [*found, holds(3500 << 20)]


def test_a_limit_within_another_keeps_both(prober: Prober):
    assert prober.run(Allocations(), GPU, lambda row: None) == [True, False, True, False, True, True, False, True]
