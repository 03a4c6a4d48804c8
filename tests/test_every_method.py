"""What holds for every method on every family of models, and for two methods on every model."""

from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch

from profl.bench.data import load_dataset
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.measuring import workloads
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.workload import Unobserved
from profl.bench.models import ModelSpec
from profl.bench.models.registry import models
from profl.bench.registry import create_method, methods
from tests.conftest import SMALL_RECIPE, shown, small_cell

# The tests of each method cover its lines; coverage would take two thirds more time here.
pytestmark = pytest.mark.no_cover

RECIPE = replace(SMALL_RECIPE, participants=1)
SIBLINGS = {"resnet18", "resnet34", "vgg16_bn"}
"""Built as another model of their family, only larger."""
EVERY = [
    pytest.param(method, model, id=f"{method}-{model}")
    for method, model in product(sorted(methods()), sorted(models()))
    if model not in SIBLINGS or method in ("fedavg", "profl")
]


def experiment_of(method: str, model: str) -> Experiment:
    return Experiment.of(small_cell(method, model=model, width=4, dataset=dataset_of(model), recipe=RECIPE))


def dataset_of(model: str) -> str:
    return "docstrings" if model == "text_transformer" else "digits"


@pytest.mark.parametrize(("method", "model"), EVERY)
def test_the_categories_of_every_task_sum_to_the_allocators_peak(method: str, model: str, prober: Prober):
    experiment = experiment_of(method, model)
    steps = workloads(experiment)
    assert len({step.key for step in steps.values()}) == len(steps)
    for key, step in steps.items():
        footprint = prober.measure(step, experiment.cell.gpu, least_budget=False)
        assert sum(footprint.categories_at_peak.values()) == footprint.peak_requested_bytes
        assert footprint.peak_requested_bytes <= footprint.peak_allocated_bytes <= footprint.peak_reserved_bytes
        parameter_bytes = sum(parameter.nbytes for parameter in step.task.build().parameters())
        assert footprint.parameter_bytes == footprint.categories_at_peak["parameters"] == parameter_bytes, key


@pytest.mark.parametrize(("method", "model"), EVERY)
def test_a_round_trains_what_it_offers_and_gives_logits(method: str, model: str):
    experiment = experiment_of(method, model)
    needs = dict.fromkeys(workloads(experiment), 1)
    dataset = load_dataset(dataset_of(model))
    fleet = Federation(experiment, dataset, needs, 1)
    before = {name: value.clone() for name, value in fleet.method.global_state.items()}
    row = fleet.run_round(1)
    assert row["participants"] == RECIPE.participants
    assert any(not torch.equal(before[name], value) for name, value in fleet.method.global_state.items())
    fresh = Federation(experiment, dataset, needs, 1)
    assert all(torch.equal(before[name], value) for name, value in fresh.method.global_state.items())
    assert shown(fleet.method).eval()(dataset.test_inputs[:2]).shape == (2, 10)


@pytest.mark.parametrize(("method", "model"), EVERY)
def test_a_batch_may_be_a_single_example(method: str, model: str):
    # As the last of an epoch often is: BatchNorm then needs more than one pixel.
    cell = small_cell(method, model=model, width=4, recipe=replace(RECIPE, batch_size=1))
    for step in workloads(Experiment.of(cell)).values():
        step.prepare(torch.device("cpu")).step(Unobserved())


@pytest.fixture(autouse=True)
def _trained_or_refused_in_one_line(method: str, model: str):
    said = refusal(method, model)
    if said is not None:
        assert said.startswith(f"{method} cannot train {model}")
        assert "\n" not in said
        pytest.skip(said)


@cache
def refusal(method: str, model: str) -> str | None:
    try:
        create_method(method, ModelSpec(model, width=4, classes=10), SMALL_RECIPE.rounds, seed=0)
    except InputError as error:
        return str(error)
    return None
