"""What the harness costs, as ratios within one run; figures land in pytest-benchmark's extra_info."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional

from profl.bench import aggregation
from profl.bench.aggregation import Update, owner_mean
from profl.bench.cell import Recipe
from profl.bench.data import load_dataset
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.fleet import Holdings, first_fitting
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.recording import measurement
from profl.bench.memory.recording.budget import least_budget_bytes
from profl.bench.memory.recording.measurement import measure_workload
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.randomness import numpy_generator, torch_generator
from profl.bench.results import CellFolder
from profl.bench.training import TrainingWorkload
from tests.benchmarks.timing import paired, processor_seconds, seconds
from tests.conftest import small_cell

RECIPE = Recipe(rounds=10**6, devices=90, participants=10, partition="iid", batch_size=16, evaluate_every=10**6)


@pytest.mark.benchmark(group="round loop")
@pytest.mark.parametrize(("width", "pairs"), [(4, 5), (16, 3)])
def test_a_round_and_its_checkpoint_cost_little_beside_the_barest_loop(
    benchmark: BenchmarkFixture, tmp_path: Path, width: int, pairs: int
):
    cell = replace(small_cell(recipe=RECIPE), width=width)
    fleet = Federation(Experiment.of(cell), load_dataset("digits"), {"full model": 1}, 1)
    data, module = fleet.dataset, cell.spec(10).build()

    def bare() -> None:
        """Do the same steps on the same examples, with nothing around them."""
        for device in fleet.draw(list(range(RECIPE.devices)), 1):
            order = torch.from_numpy(fleet.partition[device])
            optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
            for _ in range(RECIPE.local_epochs):
                shuffle = torch.randperm(len(order), generator=torch_generator(0, device))
                for batch in order[shuffle].split(RECIPE.batch_size):
                    loss = functional.cross_entropy(module(data.train_inputs[batch]), data.train_targets[batch])
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()

    folder = CellFolder(tmp_path)

    def kept_round() -> None:
        row = fleet.run_round(1)
        state = {"round": 1, "method": fleet.method.state_dict(), "trained": fleet.trained.state_dict()}
        folder.append_round(row, state)

    ratio = paired(kept_round, bare, pairs, processor_seconds)
    benchmark.extra_info["ratio_to_bare_loop"] = ratio
    benchmark.pedantic(kept_round, rounds=1)
    assert ratio < 1.2


@pytest.mark.benchmark(group="round loop")
@pytest.mark.parametrize("by_examples", [False, True])
def test_tensors_held_in_whole_are_averaged_sooner(benchmark: BenchmarkFixture, by_examples: bool):
    state = ModelSpec("resnet18", 32, 10).build().state_dict()
    updates = [Update(state, examples) for examples in range(1, 11)]

    def as_parts() -> None:
        with patch.object(aggregation, "_holds_all", return_value=False):
            owner_mean(state, updates, by_examples)

    ratio = paired(lambda: owner_mean(state, updates, by_examples), as_parts, pairs=5)
    benchmark.extra_info["ratio_to_parts"] = ratio
    assert ratio < 0.7
    benchmark.pedantic(owner_mean, args=(state, updates, by_examples), rounds=3)


@pytest.mark.benchmark(group="round loop")
def test_a_million_devices_are_kept_book_of_sooner_than_asked_one_by_one(benchmark: BenchmarkFixture):
    devices, needs = 10**6, [500, 400, 300, 200, 100]
    budgets = numpy_generator(0, "benchmark").integers(50, 700, devices)
    targets = torch.arange(60_000).numpy() % 10
    nobody: NDArray[np.int64] = np.empty(0, np.int64)
    holdings = Holdings([*np.split(np.arange(60_000), 6_000), *[nobody] * (devices - 6_000)], targets, 10)

    def round_of_arrays() -> None:
        chosen = first_fitting(budgets, needs)
        holdings.lost(chosen >= 0)

    def one_by_one() -> None:
        for budget in budgets.tolist():
            next((index for index, need in enumerate(needs) if need <= budget), None)

    ratio = paired(round_of_arrays, one_by_one, pairs=3)
    benchmark.extra_info["ratio_to_a_bare_loop"] = ratio
    benchmark.pedantic(round_of_arrays, rounds=3)
    assert ratio < 0.2


@pytest.mark.benchmark(group="footprint")
def test_a_least_budget_takes_a_fraction_of_all_its_trials(benchmark: BenchmarkFixture, prober: Prober):
    question = SearchTimes(), "virtual:h100", lambda _: None
    few, every = benchmark.pedantic(prober.run, args=question, rounds=1)
    benchmark.extra_info["ratio_to_all_trials"] = few / every
    assert few < 0.8 * every


@dataclass(frozen=True)
class SearchTimes:
    """Seconds of the search for a least budget, and of one that runs every limit; of a narrow ResNet18."""

    key: str = "search times"

    def run(self, device: torch.device, report: Callable[[object], None]) -> tuple[float, float]:
        model = ModelSpec("resnet18", 8, 10)
        workload = TrainingWorkload("benchmark", model, FullModel(model), Recipe(batch_size=32))
        footprint = measure_workload(
            workload, "virtual:h100", device, steps=3, least_budget=False, timeline=False, snapshot=None
        )
        bounds = footprint.peak_reserved_bytes, footprint.environment.total_bytes

        def every() -> None:
            least_budget_bytes(lambda budget: measurement._trial(workload, device, budget).fits, *bounds)

        return seconds(lambda: measurement._least_budget_bytes(workload, device, footprint)), seconds(every)


@pytest.mark.benchmark(group="footprint")
def test_a_footprint_costs_less_than_the_cpu_step_it_stands_for(benchmark: BenchmarkFixture, prober: Prober):
    model, recipe = ModelSpec("resnet18", 64, 10), Recipe(batch_size=64)
    task, fresh = FullModel(model), iter(range(10**6))
    module = task.build()
    inputs, targets = torch.randn(64, 3, 32, 32), torch.zeros(64, dtype=torch.int64)

    def footprint() -> None:
        """Measure the peaks of three steps; a scope of its own, as equal keys are measured only once."""
        workload = TrainingWorkload(f"benchmark {next(fresh)}", model, task, recipe)
        prober.measure(workload, "virtual:sm_90", least_budget=False)

    def cpu_steps() -> None:
        for _ in range(3):
            functional.cross_entropy(module(inputs), targets).backward()

    ratio = paired(footprint, cpu_steps, pairs=2)
    benchmark.extra_info["ratio_to_three_cpu_steps"] = ratio
    benchmark.pedantic(footprint, rounds=2)
    assert ratio < 0.05
