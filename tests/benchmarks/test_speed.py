"""What the harness costs, as ratios within one run; figures land in pytest-benchmark's extra_info."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional

from profl.bench.cell import Recipe
from profl.bench.data import load_dataset
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.memory.process.probe import Prober
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.randomness import torch_generator
from profl.bench.training import TrainingWorkload
from tests.benchmarks.timing import paired
from tests.conftest import small_cell

RECIPE = Recipe(rounds=10**6, devices=90, participants=10, partition="iid", batch_size=16, evaluate_every=10**6)


@pytest.mark.benchmark(group="round loop")
def test_the_round_loop_costs_little_beside_the_barest_loop(benchmark: BenchmarkFixture):
    cell = replace(small_cell(recipe=RECIPE), width=16)
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

    ratio = paired(lambda: fleet.run_round(1), bare, pairs=5)
    benchmark.extra_info["ratio_to_bare_loop"] = ratio
    benchmark.pedantic(fleet.run_round, args=(1,), rounds=2)
    assert ratio < 1.5


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
    assert ratio < 1
