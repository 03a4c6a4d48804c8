"""Where training runs on a GPU, each device's budget really limits it. The virtual GPU plays the physical one."""

from dataclasses import dataclass, replace

import pytest
import torch

from profl.bench.cell import Cell, Recipe
from profl.bench.data import load_dataset
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.measuring import measure_tasks
from profl.bench.memory.errors import OutOfMemory
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.workload import Prepared, StepObserver
from tests.conftest import small_cell

GPU = "virtual:jetson-orin"
RECIPE = Recipe(rounds=2, devices=12, participants=3, partition="iid", batch_size=16, local_epochs=1, evaluate_every=2)


@dataclass(frozen=True)
class Rounds:
    """Two rounds of a federation on 'cuda', run where the virtual GPU is loaded."""

    cell: Cell
    least_budgets: dict[str, int]

    @property
    def key(self) -> str:
        return f"two rounds of {self.cell}"

    def prepare(self, device: torch.device) -> Prepared:
        fleet = Federation(Experiment.of(replace(self.cell, gpu="cuda")), load_dataset("digits"), self.least_budgets, 1)
        for number in (1, 2):
            row = fleet.run_round(number)
            assert row["participants"] == RECIPE.participants
            # Where training runs on a GPU, the memory of every participant is in the row.
            assert len(row["usages"]) == RECIPE.participants
            assert 0 < row["peak_requested_bytes"] <= row["peak_reserved_bytes"] <= fleet.budgets[0]
            assert row["held_bytes"] == 0
        module = torch.nn.Linear(1, 1, device=device)

        def step(observer: StepObserver) -> None:
            observer.forward()
            loss = module(torch.zeros(1, 1, device=device)).sum()
            observer.backward(loss)
            loss.backward()
            observer.optimizer()
            observer.end()

        return Prepared(module, torch.optim.SGD(module.parameters()), (), step)


@pytest.mark.parametrize("method", ["exclusive", "inclusivefl", "profl"])
def test_devices_train_in_their_least_budget_and_not_in_much_less(method: str, prober: Prober):
    cell = small_cell(method, width=8, recipe=replace(RECIPE, rounds=12 if method == "profl" else 2))
    least = measure_tasks(Experiment.of(cell), prober).least_budgets
    first = next(iter(least))
    enough = replace(cell, tier=f"{least[first]}B")
    prober.measure(Rounds(enough, least), GPU, least_budget=False)
    # Training frees each batch before the next, so it may get by with a little less than was measured.
    too_little = replace(cell, tier=f"{least[first] * 3 // 4}B")
    pretended = dict.fromkeys(least, 1)
    with pytest.raises(OutOfMemory):
        prober.measure(Rounds(too_little, pretended), GPU, least_budget=False)
