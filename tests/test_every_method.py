"""What holds for every method on every model."""

import pickle
from itertools import product

import pytest
import torch

from profl.bench.cell import Cell
from profl.bench.data import load_dataset
from profl.bench.federation import Federation
from profl.bench.memory.process.probe import Prober
from profl.bench.models.registry import models
from profl.bench.registry import methods
from profl.bench.sweep import workloads
from tests.conftest import SMALL_RECIPE, small_cell

EVERY = [pytest.param(*pair, id="-".join(pair)) for pair in product(sorted(methods()), sorted(models()))]


def cell_of(method: str, model: str) -> Cell:
    return small_cell(method, model=model, width=4)


@pytest.mark.parametrize(("method", "model"), EVERY)
def test_the_categories_of_every_task_sum_to_the_allocators_peak(method: str, model: str, prober: Prober):
    cell = cell_of(method, model)
    steps = workloads(cell)
    assert len({step.key for step in steps.values()}) == len(steps)
    for key, step in steps.items():
        footprint = prober.measure(step, cell.gpu, least_budget=False)
        assert sum(footprint.categories_at_peak.values()) == footprint.peak_requested_bytes
        assert footprint.peak_requested_bytes <= footprint.peak_allocated_bytes <= footprint.peak_reserved_bytes
        parameter_bytes = sum(parameter.nbytes for parameter in step.task.build().parameters())
        assert footprint.parameter_bytes == footprint.categories_at_peak["parameters"] == parameter_bytes, key


@pytest.mark.parametrize(("method", "model"), EVERY)
def test_a_round_trains_what_it_offers_and_gives_logits(method: str, model: str):
    cell = cell_of(method, model)
    needs = dict.fromkeys(workloads(cell), 1)
    fleet = Federation(cell, load_dataset("digits"), needs, 1)
    before = {name: value.clone() for name, value in fleet.method.global_state.items()}
    row = fleet.run_round(1)
    assert row["participants"] == SMALL_RECIPE.participants
    assert any(not torch.equal(before[name], value) for name, value in fleet.method.global_state.items())
    fresh = Federation(cell, load_dataset("digits"), needs, 1)
    assert all(torch.equal(before[name], value) for name, value in fresh.method.global_state.items())
    assert fleet.method.global_model().eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("method", sorted(methods()))
def test_tasks_are_values_that_travel(method: str):
    for step in workloads(cell_of(method, "resnet18")).values():
        assert pickle.loads(pickle.dumps(step)) == step
