from fractions import Fraction

import pytest
import torch
from torch import nn

from profl.baselines.scalefl import LevelTask, level_rates
from profl.bench.errors import InputError
from profl.bench.models import ModelSpec
from profl.bench.registry import create_method
from tests.conftest import shown
from tests.oracles import parameter_counts
from tests.oracles.naive_mean import naive_owner_mean
from tests.oracles.scalefl import scalefl_loss, scalefl_parameters

PUBLISHED = ("1", "3/4", "7/10", "7/10")


@pytest.mark.parametrize(("name", "width"), [("resnet18", 64), ("resnet18", 5), ("vgg11_bn", 8)])
def test_a_level_is_a_prefix_of_leading_channels_with_an_exit_behind_every_stage(name, width):
    tasks = create_method("scalefl", ModelSpec(name, width, 7), rounds=1, seed=0).all_tasks()
    stages = 3 if name == "vgg11_bn" else 4
    rates = PUBLISHED[:stages]
    assert [task.key for task in tasks] == [f"depth {stages - i} width {rate}" for i, rate in enumerate(rates)]
    for task, rate in zip(tasks, rates, strict=True):
        channels = parameter_counts.widths(width, rate)
        if name == "vgg11_bn":
            parts = parameter_counts.vgg_parts((1, 1, 2, 4), width, rate)
            channels = channels[1:]
        else:
            stem = parameter_counts.stem(channels[0])
            parts = [stem, *parameter_counts.resnet_stages((2, 2, 2, 2), width, rate)]
        with torch.device("meta"):
            counted = sum(parameter.numel() for parameter in task.build().parameters())
        assert counted == scalefl_parameters(parts, channels, 7, task.depth), task.key


def test_a_network_of_more_stages_repeats_the_first_rate_and_of_fewer_takes_the_last():
    assert list(level_rates(["1/4", "1/2", "1"], 5).values()) == [Fraction(1, 4)] * 3 + [Fraction(1, 2), 1]
    assert level_rates(["1/4", "1/2", "1"], 2) == {1: Fraction(1, 2), 2: Fraction(1)}


@pytest.mark.parametrize(
    "options", [{"rates": []}, {"rates": ["2"]}, {"distillation": -1.0}, {"distillation_start": 1.5}]
)
def test_impossible_options_are_refused(options, make):
    with pytest.raises(InputError, match=next(iter(options))):
        make("scalefl", **options)


@pytest.mark.parametrize(("depth", "weight"), [(1, 1.0), (2, 0.0), (4, 0.3)])
def test_the_loss_against_its_definition(depth, weight, make, model, context, batch):
    task = LevelTask(model, depth, weight)
    module = task.build()
    task.load(module, make("scalefl").global_state, context())
    with torch.no_grad():
        for part in module.exits.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=3)  # so that the exits disagree
    inputs, targets = batch()
    exits = [logits.detach().double().numpy() for logits in module(inputs)]
    assert len(exits) == depth
    loss = float(task.loss(module, inputs, targets).detach())
    assert loss == pytest.approx(scalefl_loss(exits, targets.numpy(), weight), rel=1e-5)


def test_distillation_begins_after_a_quarter_of_the_rounds(make):
    method, weights = make("scalefl", rounds=8), []
    for finished in range(8):
        method.finished_rounds = finished
        weights.append({task.distillation for task in method.tasks()})
    assert weights == [{0.0}] * 3 + [{0.05}] * 5


def test_every_element_is_the_mean_of_the_levels_that_hold_it(make, train):
    method = make("scalefl")
    before = {name: value.numpy().copy() for name, value in method.global_state.items()}
    updates = [train(method, task, seed) for seed, task in enumerate(method.tasks())]
    method.aggregate(updates)
    for name in ("stem.0.weight", "stages.0.1.bn2.bias", "stages.2.0.downsample.0.weight", "exits.2.9.2.weight"):
        uploads = [
            (update.state[name].numpy(), [range(size) for size in update.state[name].shape])
            for update in updates
            if name in update.state
        ]
        assert len({values.shape for values, _ in uploads}) > 1, "the levels hold different parts"
        expected = naive_owner_mean(before[name], uploads)
        torch.testing.assert_close(method.global_state[name], torch.from_numpy(expected), msg=name)


def test_training_keeps_and_sends_no_statistics_of_batchnorm(make, train):
    method = make("scalefl")
    assert not method.keeps_batchnorm_statistics
    for task in method.tasks():
        assert not [name for name in train(method, task).state if "running" in name or "tracked" in name]


def test_the_deepest_exit_of_a_level_is_tested_alone(make, train, batch, context):
    method = make("scalefl")
    method.aggregate([train(method, task) for task in method.tasks()])
    inputs = batch()[0]
    for place, task in enumerate(method.tasks()):
        module = task.build()
        task.load(module, method.global_state, context())
        torch.testing.assert_close(shown(method, place).train()(inputs), module(inputs)[-1])
