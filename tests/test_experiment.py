"""A cell is resolved once: its method is built to hear its tasks, and once more by whoever trains it."""

import pickle
from dataclasses import replace

import pytest
import torch

from profl.bench.config import experiments
from profl.bench.data import load_dataset
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.measuring import measure_tasks, workloads
from profl.bench.memory.process.probe import Prober
from profl.bench.registry import create_method, methods
from tests.conftest import small_cell
from tests.sweeps import CONFIG


def test_a_method_is_built_once_to_look_a_cell_up_and_once_to_train_it(monkeypatch: pytest.MonkeyPatch, prober: Prober):
    built: list[str] = []

    def counted(name: str, *arguments: object):
        built.append(name)
        return create_method(name, *arguments)

    monkeypatch.setattr("profl.bench.experiment.create_method", counted)
    first, *others = experiments(CONFIG)
    assert built == [first.cell.method, *(other.cell.method for other in others)]
    built.clear()
    assert list(workloads(first)) == [task.key for task in first.tasks]
    measured = measure_tasks(first, prober)
    assert built == []
    Federation(first, load_dataset("digits"), measured.least_budgets, measured.full_model_bytes)
    assert built == [first.cell.method]


@pytest.mark.parametrize("method", sorted(methods()))
def test_whoever_trains_a_method_has_one_of_their_own(method: str):
    experiment = Experiment.of(small_cell(method))
    trained, fresh = experiment.method(), experiment.method()
    for value in trained.global_state.values():
        value.zero_()
    assert any(value.any() for value in fresh.global_state.values())
    again = experiment.method()
    assert all(torch.equal(value, again.global_state[name]) for name, value in fresh.global_state.items())


@pytest.mark.parametrize("method", sorted(methods()))
def test_it_is_a_small_value_that_travels(method: str):
    experiment = Experiment.of(small_cell(method))
    packed = pickle.dumps(experiment)
    assert pickle.loads(packed) == experiment
    assert len(packed) < 5_000


def test_what_a_method_refuses_is_refused_as_the_cell_is_looked_up():
    with pytest.raises(InputError, match="rounds"):
        Experiment.of(small_cell("profl", recipe=replace(CONFIG.recipe, rounds=2)))
    with pytest.raises(InputError, match="method 'heterofl' has no option 'speed': choose one of"):
        Experiment.of(small_cell("heterofl", options={"speed": 1}))


@pytest.mark.parametrize("method", sorted(methods()))
def test_the_cells_seed_is_the_methods(method: str):
    states = [Experiment.of(small_cell(method, seed=seed)).method().global_state for seed in (0, 1)]
    assert any(not torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_model_that_is_not_known_is_refused_as_the_cell_is_looked_up():
    for method in methods():  # also one that builds no model before it trains
        with pytest.raises(InputError, match=r"^unknown model 'resnet19'"):
            Experiment.of(small_cell(method, model="resnet19"))
