"""AllSmall, the two FedAvgs and the slicing that all width methods share."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from profl.baselines.feddropout import drawn
from profl.baselines.fedrolex import Window
from profl.baselines.width import SubnetworkTask, load_leading, parse_rates
from profl.bench.aggregation import leading
from profl.bench.errors import InputError
from profl.bench.method import FullModel, initial_state
from profl.bench.models import ModelSpec
from profl.bench.models.normalisation import normalise
from tests.conftest import settle, shown
from tests.oracles import parameter_counts

CHANNELS = {"rolled": Window(2), "drawn": drawn}


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_a_part_computes_what_the_full_model_does_with_its_other_channels_silent(channels, name, batch, context):
    # Holds only if channels stay aligned everywhere, across the residual connections too.
    spec, local = ModelSpec(name, width=6, classes=10), context()
    task = SubnetworkTask(spec.at_rate(Fraction(1, 2)), scaler=False, channels=channels)
    full, part = spec.build(), task.build()
    normalise(full, "static")
    for norm in full.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    task.load(part, full.state_dict(), local)
    for norm in full.modules():
        if isinstance(norm, nn.BatchNorm2d):
            silent = torch.ones(len(norm.weight), dtype=torch.bool)
            silent[channels(len(silent) // 2, len(silent), local)] = False
            norm.weight.data[silent] = 0
            norm.bias.data[silent] = 0
    inputs, _ = batch()
    torch.testing.assert_close(part(inputs), full(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [Fraction(1, 2), Fraction(1, 3), Fraction(1, 16)])
@pytest.mark.parametrize("training", [True, False])
def test_a_slice_computes_what_the_full_model_does_with_its_other_channels_silent(rate, training, batch):
    # Holds only if channels stay aligned everywhere, across the residual connections too.
    spec = ModelSpec("resnet18", width=6, classes=10)
    full, narrow = spec.build(), spec.at_rate(rate).build()
    for norm in full.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    load_leading(narrow, full.state_dict())
    kept = {id(a): len(b.weight) for a, b in zip(full.modules(), narrow.modules(), strict=True) if hasattr(a, "eps")}
    with torch.no_grad():
        for norm in full.modules():
            if id(norm) in kept:
                norm.weight[kept[id(norm)] :] = 0
                norm.bias[kept[id(norm)] :] = 0
    inputs, targets = batch()
    logits = [module.train(training)(inputs) for module in (full, narrow)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)

    for output in logits:
        nn.functional.cross_entropy(output, targets).backward()
    gradients = dict(full.named_parameters())
    for name, parameter in narrow.named_parameters():
        sliced = leading(gradients[name].grad, parameter.shape)
        torch.testing.assert_close(parameter.grad, sliced, rtol=1e-3, atol=1e-5)


def test_fedavg_ignores_memory_and_nobody_else_does(make):
    assert make("fedavg").ignores_memory
    assert not any(make(name).ignores_memory for name in ("exclusive", "allsmall", "heterofl"))


def test_exclusive_offers_the_full_model_only(make, model):
    assert [task.key for task in make("exclusive").all_tasks()] == ["full model"]
    assert make("exclusive").tasks() == make("fedavg").tasks() == [FullModel(model)]


def test_allsmall_trains_the_widest_model_that_all_can_train(make, model, batch):
    method = make("allsmall")
    assert [task.key for task in method.all_tasks()] == [f"width {r}" for r in ("1", "1/2", "1/4", "1/8", "1/16")]
    settle(method, method.all_tasks()[2:])
    assert [task.key for task in method.tasks()] == ["width 1/4"]
    assert method.phase == "train width 1/4"
    parameters = sum(p.numel() for p in shown(method).parameters())
    assert parameters == parameter_counts.resnet((2, 2, 2, 2), model.width, 10, Fraction(1, 4))


@pytest.mark.parametrize(
    ("counts", "rate"),
    [
        ((0, 4, 9, 9, 9), "1/4"),  # the widest that as many can train as the narrowest
        ((3, 3, 3, 3, 3), "1"),
        ((0, 0, 2, 5, 4), "1/8"),  # a narrower one may need more memory: what counts is who can train it
        ((0, 0, 0, 0, 0), "1/16"),
    ],
)
def test_allsmall_trains_the_widest_model_that_as_many_can_train_as_any(make, counts, rate):
    method = make("allsmall")
    method.settle(dict(zip([task.key for task in method.all_tasks()], counts, strict=True)))
    assert [task.key for task in method.tasks()] == [f"width {rate}"]


def test_allsmall_starts_from_a_slice_of_what_the_others_start_from(make):
    method = make("allsmall")
    wide = make("fedavg").global_state
    settle(method, method.all_tasks()[2:])
    for name, value in method.global_state.items():
        assert torch.equal(value, leading(wide[name], value.shape)), name
    assert method.global_state["head.2.weight"].shape == (10, 8)


def test_allsmall_can_start_as_a_network_of_its_own_width(make, model):
    # Kaiming's deviation grows as the fan shrinks; a slice would keep the wide model's.
    method = make("allsmall", initial_values="own")
    settle(method, method.all_tasks()[2:])
    own = initial_state(model.at_rate(Fraction(1, 4)), method.seed)
    assert all(torch.equal(value, own[name]) for name, value in method.global_state.items())
    wide = make("fedavg").global_state["stages.3.0.conv2.weight"].std()
    torch.testing.assert_close(method.global_state["stages.3.0.conv2.weight"].std(), 2 * wide, rtol=0.1, atol=0)


def test_other_initial_values_are_refused(make):
    with pytest.raises(InputError, match="initial_values cannot be 'random'"):
        make("allsmall", initial_values="random")


def test_allsmall_takes_the_narrowest_if_the_weakest_device_can_train_nothing(make):
    method = make("allsmall", rates=["1/2", "1/4"])
    settle(method, [])
    assert [task.key for task in method.tasks()] == ["width 1/4"]


def test_allsmall_at_rate_one_is_fedavg(make, train):
    small, fedavg = make("allsmall"), make("fedavg")
    settle(small, small.all_tasks())
    for method in (small, fedavg):
        method.aggregate([train(method, method.tasks()[0], seed) for seed in (1, 2)])
    assert all(torch.equal(value, fedavg.global_state[name]) for name, value in small.global_state.items())


def test_rates_are_exact_and_sorted():
    assert parse_rates(["0.25", "1/3", 1, 0.5]) == [
        Fraction(1),
        Fraction(1, 2),
        Fraction(1, 3),
        Fraction(1, 4),
    ]


@pytest.mark.parametrize(
    "rates", [[], ["0"], ["2"], ["-1/2"], ["1/2", "0.5"], ["x"], ["1/0"], ["nan"], "1/2", 0.5, None]
)
@pytest.mark.parametrize("name", ["allsmall", "heterofl"])
def test_impossible_rates_are_refused(name, rates, make):
    with pytest.raises(InputError, match="rates"):
        make(name, rates=rates)
