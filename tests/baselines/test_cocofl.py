import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from profl.baselines.cocofl import FixedNorm, RoundedConvolution, RoundedLinear, WindowTask
from profl.bench.conformance import RECIPE, loaded
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.training import LocalStep, TrainingWorkload
from tests.oracles.cocofl import partial_mean, rounded


def pairs(method):
    return [(task.first, task.last) for task in method.tasks()]


def test_every_window_is_offered_behind_all_that_contain_it_in_an_order_that_is_drawn_anew(make):
    method, orders = make("cocofl"), []
    for finished in range(8):
        method.finished_rounds = finished
        order = pairs(method)
        assert sorted(order) == [(first, last) for first in range(1, 5) for last in range(first, 5)]
        for place, (first, last) in enumerate(order):
            assert not [pair for pair in order[place + 1 :] if pair[0] <= first and last <= pair[1]]
        assert pairs(method) == order
        orders.append(tuple(order))
    assert len({*orders}) > 4


def test_a_shorter_window_may_come_before_a_longer_one_that_does_not_contain_it(make):
    method, found = make("cocofl"), False
    for finished in range(19):
        method.finished_rounds = finished
        order = pairs(method)
        found |= order.index((4, 4)) < order.index((1, 3))
    assert found


@pytest.mark.parametrize("stride", [1, 2])
def test_a_rounded_convolution_against_its_definition(stride):
    plain = nn.Conv2d(3, 5, 3, stride=stride, padding=1)
    layer = RoundedConvolution(plain)
    layer.take({"weight": plain.weight.detach()})
    assert layer.rounded.dtype == torch.int8
    features = torch.randn(2, 3, 8, 8, requires_grad=True)
    output = layer(features)
    weight = torch.from_numpy(rounded(plain.weight.detach())).float()
    exact = functional.conv2d(
        torch.from_numpy(rounded(features.detach())).float(), weight, plain.bias, stride=stride, padding=1
    )
    torch.testing.assert_close(output, exact, rtol=1e-4, atol=1e-5)

    gradient = torch.randn_like(output)
    output.backward(gradient)
    inputs = torch.zeros_like(features, requires_grad=True)
    functional.conv2d(inputs, weight, stride=stride, padding=1).backward(torch.from_numpy(rounded(gradient)).float())
    torch.testing.assert_close(features.grad, inputs.grad, rtol=1e-4, atol=1e-5)


def test_a_rounded_linear_layer_against_its_definition():
    plain = nn.Linear(4, 3)
    layer = RoundedLinear(plain)
    layer.take({"weight": plain.weight.detach()})
    features = torch.randn(2, 6, 4, requires_grad=True)
    output = layer(features)
    weight = rounded(plain.weight.detach())
    expected = rounded(features.detach()) @ weight.T + plain.bias.detach().numpy()
    np.testing.assert_allclose(output.detach(), expected, rtol=1e-4, atol=1e-5)
    output.sum().backward()
    np.testing.assert_allclose(features.grad, rounded(np.ones((2, 6, 3))) @ weight, rtol=1e-4, atol=1e-5)


def test_zeros_stay_zeros():
    layer = RoundedLinear(nn.Linear(2, 2, bias=False))
    layer.take({"weight": torch.zeros(2, 2)})
    assert torch.equal(layer(torch.zeros(1, 2)), torch.zeros(1, 2))


def test_a_fixed_norm_is_batchnorm_in_evaluation():
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.weight)
    nn.init.normal_(norm.bias)
    norm(torch.randn(4, 3, 5, 5) * 3 + 1)
    fixed = FixedNorm(norm)
    fixed.take(norm.state_dict())
    features = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(fixed(features), norm.eval()(features))


def test_what_is_frozen_is_the_full_model_in_evaluation_but_for_the_rounding(make, model, batch, context):
    method, inputs = make("cocofl", quantised=False), batch()[0]
    module = loaded(method, WindowTask(model, 4, 4, quantised=False), context())
    full = model.build()
    full.load_state_dict(method.global_state)
    features = full.stem(inputs)  # its BatchNorm normalises by the batch, frozen or not
    full.stages[:3].eval()
    expected = full.head(full.stages[3](full.stages[2](full.stages[1](full.stages[0](features)))))
    torch.testing.assert_close(module(inputs), expected, rtol=1e-4, atol=1e-5)
    tight = loaded(make("cocofl"), WindowTask(model, 4, 4), context())(inputs)
    difference = (tight - expected).norm() / expected.norm()
    assert 1e-4 < difference < 0.2


@pytest.mark.parametrize(
    ("first", "last", "parts"),
    [
        (1, 4, ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "head")),
        (1, 1, ("stem", "stages.0")),
        (2, 3, ("stages.1", "stages.2")),
        (4, 4, ("stages.3", "head")),
    ],
)
def test_a_device_trains_and_sends_its_window_alone(first, last, parts, make, train, model):
    method = make("cocofl")
    task = WindowTask(model, first, last)
    sent = train(method, task).state
    expected = {name for name in method.global_state if name.startswith(tuple(f"{part}." for part in parts))}
    assert sent.keys() == expected
    with torch.device("meta"):
        module = task.build()
    assert {name for name, value in module.named_parameters() if value.requires_grad} <= expected


def test_the_whole_window_trains_as_fedavg_but_for_the_statistics(make, train, model):
    ours, plain = train(make("cocofl"), WindowTask(model, 1, 4)), train(make("fedavg"), FullModel(model))
    differing = {name for name, value in ours.state.items() if not torch.equal(value, plain.state[name])}
    assert differing == {name for name in ours.state if "running" in name and not name.startswith("stem.")}


def test_running_statistics_in_the_window_become_those_of_the_last_batch(make, batch, model, context):
    module = loaded(make("cocofl"), task := WindowTask(model, 1, 2), context())
    inputs, targets = batch()
    norm, seen = module.stages[0][0].bn1, []
    norm.register_forward_pre_hook(lambda _, features: seen.append(features[0].detach()))
    LocalStep(task, module, RECIPE)(inputs, targets)
    torch.testing.assert_close(norm.running_mean, seen[0].mean((0, 2, 3)))


def test_a_device_that_froze_a_tensor_counts_as_if_it_had_sent_the_servers_value(make, train, model):
    method = make("cocofl")
    windows = [(1, 4), (2, 3), (3, 4)]
    before = {name: value.numpy().copy() for name, value in method.global_state.items()}
    updates = [train(method, WindowTask(model, *window), seed) for seed, window in enumerate(windows)]
    method.aggregate(updates)
    for name in ("stem.0.weight", "stages.1.0.conv1.weight", "stages.2.0.bn1.running_mean", "head.2.bias"):
        uploads = [update.state[name].numpy() for update in updates if name in update.state]
        assert 1 <= len(uploads) <= 3
        np.testing.assert_allclose(
            method.global_state[name], partial_mean(before[name], uploads, 3), rtol=1e-5, atol=1e-7, err_msg=name
        )


def test_a_frozen_weight_takes_and_receives_a_quarter_of_the_bytes(model):
    modules = [WindowTask(model, 4, 4, quantised).build() for quantised in (False, True)]
    floats, rounded_bytes = (sum(value.nbytes for value in module.state_dict().values()) for module in modules)
    weights = sum(
        value.numel()
        for name, value in modules[0].stages[:3].named_parameters()
        if "conv" in name or ".0.weight" in name
    )
    steps = sum(isinstance(part, RoundedConvolution) for part in modules[1].modules())
    assert floats - rounded_bytes == 3 * weights - 4 * steps


def test_frozen_stages_keep_less_for_backward(prober):
    model = ModelSpec("resnet18", 8, 10)

    def activations(task):
        step = TrainingWorkload("cocofl", model, task, RECIPE)
        return prober.measure(step, "virtual:jetson-orin", least_budget=False).peak_activation_bytes

    # Behind the window, the inputs of BatchNorm are not kept; in front of it, nothing is.
    whole, behind, in_front = (activations(WindowTask(model, *window)) for window in ((1, 4), (1, 1), (4, 4)))
    assert in_front < behind < whole


def test_where_nothing_learns_features_are_rounded_in_place_for_all_who_read_them():
    layer = RoundedLinear(nn.Linear(4, 3))
    layer.take({"weight": torch.randn(3, 4)})
    features = torch.randn(2, 4)
    expected, on_the_grid = layer(features.clone().requires_grad_()), rounded(features)
    with torch.no_grad():
        output = layer(features)
    assert torch.equal(output, expected)
    np.testing.assert_allclose(features, on_the_grid, rtol=1e-5)
