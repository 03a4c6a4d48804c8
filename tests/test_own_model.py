"""Models as another package would offer them: what they state of themselves reaches methods and harness."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from profl.bench.cell import Recipe
from profl.bench.config import Config, Grid, experiments
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.measuring import workloads
from profl.bench.memory.workload import Unobserved
from profl.bench.method import FullModel, LocalContext
from profl.bench.models import ModelSpec, StagedModel
from profl.bench.registry import create_method, methods
from profl.bench.training import TrainingWorkload
from tests.conftest import SMALL_RECIPE, plug_in, shown, small_cell

CPU = torch.device("cpu")
RECIPE = Recipe(rounds=10, batch_size=4)


def convolved(into, out, stride):
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, padding=1), nn.BatchNorm2d(out), nn.ReLU())


class Letters(StagedModel):
    """Grey pictures that are not square; a hidden layer, so that the classifier does not see the last stage."""

    input_shape = (1, 20, 12)

    def __init__(self, spec):
        channels = [spec.channels(multiple) for multiple in (1, 2, 3)]
        stages = [convolved(channels[stage], channels[stage + 1], stride=2) for stage in range(2)]
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        hidden = spec.channels(5)
        head = nn.Sequential(*pooled, nn.Linear(channels[-1], hidden), nn.ReLU(), nn.Linear(hidden, spec.classes))
        super().__init__(convolved(1, channels[0], stride=1), stages, head, channels, (2, 2))


class Words(StagedModel):
    """Numbers of words in, the mean of their vectors on."""

    input_shape = (7,)
    input_dtype = torch.int64

    def __init__(self, spec):
        width = spec.channels(1)
        mix = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        super().__init__(nn.EmbeddingBag(50, width), [mix], nn.Linear(width, spec.classes), (width, width), (1,))


class Unclassified(StagedModel):
    def __init__(self, spec):
        super().__init__(nn.Identity(), [], nn.Flatten(), (3,), ())


@pytest.fixture(autouse=True)
def _plugged(monkeypatch):
    for model in (Letters, Words, Unclassified):
        plug_in(monkeypatch, "profl.models", model.__name__.lower(), f"{__name__}:{model.__name__}")


def update_of(method, task):
    """Returns the module and what a device without examples of class 2 sends, before any training."""
    local = LocalContext(torch.Generator(), torch.arange(6) != 2, examples=4)
    module = task.build()
    task.load(module, method.global_state, local)
    return module, task.update(module, method.global_state, local)


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_trains_a_model_of_another_shape(name):
    method = create_method(name, ModelSpec("letters", 4, 6), RECIPE.rounds, seed=0)
    for task in method.all_tasks():
        prepared = TrainingWorkload(name, method.model, task, RECIPE).prepare(CPU)
        assert prepared.inputs[0].shape == (4, 1, 20, 12)
        prepared.step(Unobserved())
    method.aggregate([update_of(method, method.tasks()[0])[1]])
    assert shown(method).eval()(torch.zeros(2, 1, 20, 12)).shape == (2, 6)


def test_heterofl_sends_the_rows_of_the_layer_that_classifies_and_may_test_the_width_that_trained():
    method = create_method("heterofl", ModelSpec("letters", 4, 6), RECIPE.rounds, seed=0)
    half = method.tasks()[1]
    module, update = update_of(method, half)
    assert update.state["head.4.weight"].shape == (5, 10)
    assert update.state["head.2.weight"].shape == (10, 6)
    method.aggregate([update])
    assert shown(method, 1).stage_channels == module.stage_channels


def test_the_type_of_the_examples_is_the_models():
    spec = ModelSpec("words", 4, 3)
    prepared = TrainingWorkload("mine", spec, FullModel(spec), RECIPE).prepare(CPU)
    assert (prepared.inputs[0].shape, prepared.inputs[0].dtype) == ((4, 7), torch.int64)
    prepared.step(Unobserved())


def test_a_family_of_models_is_plugged_in_and_has_one_width(monkeypatch):
    plug_in(monkeypatch, "profl.model_families", "alphabet", f"{__name__}:Letters")
    spec = ModelSpec("alphabet:latin", 4, 6)
    assert isinstance(spec.build(), Letters)
    with pytest.raises(InputError, match="model 'alphabet:latin' has one width: choose methods that narrow no network"):
        spec.at_rate(Fraction(1, 2))
    with pytest.raises(InputError, match="unknown model 'letter:latin'"):
        ModelSpec("letter:latin", 4, 6).build()


def test_a_dataset_whose_examples_the_model_cannot_take_is_refused():
    grid = Grid(method=["fedavg"], model=["letters"], width=[2], dataset=["digits"], tier=["1GiB"], seed=[0])
    message = "dataset 'digits' has examples of shape 3x32x32, but model 'letters' takes 1x20x12: choose another"
    with pytest.raises(InputError, match=message):
        experiments(Config(grid, "virtual:jetson-orin", recipe=SMALL_RECIPE))
    # To measure, the number of classes is all that a dataset must give.
    assert list(workloads(Experiment.of(small_cell("fedavg", model="letters")))) == ["full model"]


def test_a_head_without_a_linear_layer_must_name_its_classifier():
    with pytest.raises(InputError, match="the head of Unclassified has no linear layer: override classifier_name"):
        create_method("heterofl", ModelSpec("unclassified", 1, 3), RECIPE.rounds, seed=0)
