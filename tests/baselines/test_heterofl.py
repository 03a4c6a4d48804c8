import copy
import pickle
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional

from profl.baselines.width import SubnetworkTask, WidthTask
from profl.bench.aggregation import leading
from profl.bench.cell import Recipe
from profl.bench.errors import InputError
from profl.bench.models import ModelSpec
from profl.bench.training import TrainingWorkload
from tests.conftest import shown

HALF = Fraction(1, 2)


def loaded(task, state, local):
    module = task.build()
    task.load(module, state, local)
    return module


def running(state):
    return {name: value for name, value in state.items() if "running" in name or "num_batches" in name}


def test_it_offers_the_papers_rates_widest_first(make):
    method = make("heterofl")
    keys = ["subnetwork 1", *(f"subnetwork 1/{divisor} scaled" for divisor in (2, 4, 8, 16))]
    assert [task.key for task in method.tasks()] == keys
    assert method.tasks() == method.all_tasks()


def test_the_key_says_what_changes_the_footprint(model):
    half = model.at_rate(HALF)
    assert SubnetworkTask(half, scaler=False).key != SubnetworkTask(half, scaler=True).key
    # At rate 1 nothing is divided, whatever the option says.
    assert SubnetworkTask(model, scaler=False).key == SubnetworkTask(model, scaler=True).key


# At rate 1 it is FedAvg


def test_at_rate_one_a_device_trains_as_in_fedavg_to_the_bit(make, train, model):
    fedavg, heterofl = make("fedavg"), make("heterofl", max_gradient_norm=0)
    plain = train(fedavg, WidthTask(model), seed=5)
    ours = train(heterofl, heterofl.tasks()[0], seed=5)
    assert set(plain.state) - set(ours.state) == set(running(plain.state))
    for name, value in ours.state.items():
        assert torch.equal(value, plain.state[name]), name


def test_at_rate_one_the_server_aggregates_as_in_fedavg_to_the_bit(make, train, model):
    fedavg, heterofl = make("fedavg"), make("heterofl", max_gradient_norm=0)
    fedavg.aggregate([train(fedavg, WidthTask(model), seed) for seed in range(3)])
    heterofl.aggregate([train(heterofl, heterofl.tasks()[0], seed) for seed in range(3)])
    parameters = set(fedavg.global_state) - set(running(fedavg.global_state))
    for name in parameters:
        assert torch.equal(heterofl.global_state[name], fedavg.global_state[name]), name


# Clipping


def test_gradients_are_clipped_to_norm_1_as_published(make, train):
    assert {task.max_gradient_norm for task in make("heterofl").all_tasks()} == {1.0}
    ways = []
    for norm in (0, 1.0, 0.5):
        method = make("heterofl", max_gradient_norm=norm)
        before = method.global_state["head.2.bias"]
        # Neither momentum, of the first step, nor weight decay, of zeros, has a part in the way of the bias.
        ways.append(train(method, method.tasks()[0]).state["head.2.bias"] - before * (1 - 0.05 * 5e-4))
    assert ways[0].norm() > 1.001 * ways[1].norm()
    torch.testing.assert_close(ways[1], 2 * ways[2], rtol=1e-4, atol=1e-7)


def test_clipping_can_be_turned_off_and_is_part_of_the_footprints_name(make):
    off, on = (make("heterofl", max_gradient_norm=norm).tasks()[1] for norm in (0, 2.5))
    assert off.max_gradient_norm is None
    assert on.max_gradient_norm == 2.5
    keys = [TrainingWorkload("heterofl", off.model, task, Recipe()).key for task in (off, on)]
    assert keys[1] == keys[0] + ", gradients clipped"


@pytest.mark.parametrize("norm", [-1.0, float("inf")])
def test_impossible_norms_are_refused(norm, make):
    with pytest.raises(InputError, match="max_gradient_norm"):
        make("heterofl", max_gradient_norm=norm)


# The classes a device holds


def test_absent_classes_count_as_logit_zero(make, context, batch):
    method = make("heterofl")
    task, held = method.tasks()[1], [0, 3, 8]
    module = loaded(task, method.global_state, context(held))
    inputs, targets = batch(classes=held)
    loss = task.loss(module, inputs, targets)
    logits = module(inputs)
    powers = logits[:, held].exp().sum(dim=1) + (10 - len(held))
    expected = (powers.log() - logits[torch.arange(6), targets]).mean()
    torch.testing.assert_close(loss, expected)
    assert abs(loss - functional.cross_entropy(logits, targets)) > 1e-3

    loss.backward()
    absent = [label for label in range(10) if label not in held]
    gradient = module.head[2].weight.grad
    assert not gradient[absent].any()
    assert gradient[held].any(dim=1).all()


def test_with_all_classes_it_is_the_plain_cross_entropy(make, context, batch):
    method = make("heterofl")
    task = method.tasks()[1]
    module = loaded(task, method.global_state, context())
    inputs, targets = batch()
    assert torch.equal(task.loss(module, inputs, targets), functional.cross_entropy(module(inputs), targets))


def test_a_resident_module_takes_over_the_next_devices_classes(make, context):
    method = make("heterofl")
    task = method.tasks()[1]
    module = loaded(task, method.global_state, context([1]))
    task.load(module, method.global_state, context([2, 5]))
    assert module.owned_classes.nonzero().flatten().tolist() == [2, 5]
    assert "owned_classes" not in module.state_dict()


def test_a_device_sends_the_classifier_rows_of_its_classes_only(make, train, model):
    method = make("heterofl")
    task, held = method.tasks()[1], [2, 9]
    before = {name: value.clone() for name, value in method.global_state.items()}
    update = train(method, task, classes=held)
    features = 4 * model.width
    assert update.state["head.2.weight"].shape == (2, features)
    assert update.state["head.2.bias"].shape == (2,)

    method.aggregate([update])
    # Weight decay moved the absent rows on the device; they must not arrive.
    for name in ("head.2.weight", "head.2.bias"):
        changed = (method.global_state[name] != before[name]).reshape(10, -1)
        assert changed.any(dim=1).nonzero().flatten().tolist() == held
    changed = method.global_state["head.2.weight"] != before["head.2.weight"]
    assert not changed[:, features:].any()
    assert torch.equal(method.global_state["head.2.weight"][held, :features], update.state["head.2.weight"])


def test_rows_are_averaged_over_the_devices_that_hold_the_class(make, train):
    method = make("heterofl")
    wide, narrow = method.tasks()[0], method.tasks()[-1]
    first, second = train(method, wide, 1, classes=[0, 1]), train(method, narrow, 2, classes=[1, 2])
    before = method.global_state["head.2.bias"].clone()
    method.aggregate([first, second])
    a, b = first.state["head.2.bias"], second.state["head.2.bias"]
    expected = before.clone()
    expected[:3] = torch.stack([a[0], ((a[1].double() + b[0].double()) / 2).float(), b[1]])
    assert torch.equal(method.global_state["head.2.bias"], expected)


# Static BatchNorm


def test_running_statistics_are_neither_held_nor_sent_nor_changed(make, context, train):
    method = make("heterofl")
    before = running({name: value.clone() for name, value in method.global_state.items()})
    assert before
    for task in method.tasks():
        module = loaded(task, method.global_state, context())
        assert not running(module.state_dict())
        assert not running(dict(module.named_buffers()))
    update = train(method, method.tasks()[1])
    assert not running(update.state)
    method.aggregate([update])
    assert all(torch.equal(method.global_state[name], value) for name, value in before.items())
    assert not method.keeps_batchnorm_statistics


def test_training_normalises_by_the_batch(make, context, batch):
    method = make("heterofl")
    module = loaded(method.tasks()[1], method.global_state, context())
    normalised = module.stem[1](module.stem[0](batch()[0]))
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 2, 3)), torch.ones(2), atol=1e-2, rtol=0)


def test_the_global_model_has_statistics_to_estimate(make):
    norms = [part for part in shown(make("heterofl")).modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert all(norm.track_running_stats and norm.running_mean is not None for norm in norms)


def test_only_heterofl_keeps_no_statistics(make):
    others = ("fedavg", "exclusive", "allsmall", "depthfl", "inclusivefl")
    assert all(make(name).keeps_batchnorm_statistics for name in others)


# The Scaler


@pytest.mark.parametrize("rate", [HALF, Fraction(1, 16)])
def test_the_scaler_divides_behind_convolutions_in_training_only(rate, model, batch):
    task = SubnetworkTask(model.at_rate(rate), scaler=True)
    with torch.device("meta"):
        module = task.build()
    module.to_empty(device="cpu")
    module.load_state_dict(model.at_rate(rate).build().state_dict(), strict=False)
    conv, inputs = module.stem[0], batch()[0]
    plain = functional.conv2d(inputs, conv.weight, padding=1)
    torch.testing.assert_close(conv(inputs), plain / float(rate))
    module.eval()
    assert torch.equal(conv(inputs), plain)


def test_every_convolution_is_scaled_and_none_at_rate_one(model):
    for spec, hooks in ((model.at_rate(HALF), 1), (model, 0)):
        module = SubnetworkTask(spec, scaler=True).build()
        convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
        assert len(convs) == 20
        assert all(len(conv._forward_hooks) == hooks for conv in convs)


def test_linear_layers_are_scaled_but_for_the_classifier():
    module = SubnetworkTask(ModelSpec("vit", 32, 10, HALF), scaler=True).build()
    scaled = {name for name, part in module.named_modules() if part._forward_hooks}
    assert {"stem.projection", "stages.2.2.attention.query", "stages.0.0.perceptron.2"} < scaled
    assert len(scaled) == 1 + 9 * 6
    tokens, layer = torch.randn(2, 5, 16), module.stages[0][0].attention.output
    torch.testing.assert_close(layer(tokens), 2 * functional.linear(tokens, layer.weight, layer.bias))


def test_a_scaled_module_can_be_copied_and_sent(model, batch):
    module = SubnetworkTask(model.at_rate(HALF), scaler=True).build()
    inputs = batch()[0]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other.stem[0](inputs), module.stem[0](inputs))


def test_names_are_the_same_with_and_without_the_scaler(model):
    scaled, plain = (SubnetworkTask(model.at_rate(HALF), scaler).build().state_dict() for scaler in (True, False))
    assert list(scaled) == list(plain)


def test_batchnorm_undoes_the_scaler(make, context, batch):
    # The reason why the default may follow the paper: only BatchNorm's epsilon sees the factor.
    method = make("heterofl")
    spec = method.tasks()[3].model
    gradients = []
    for scaler in (True, False):
        task = SubnetworkTask(spec, scaler)
        module = loaded(task, method.global_state, context()).double()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eps = 1e-12
        inputs, targets = batch()
        task.loss(module, inputs.double(), targets).backward()
        gradients.append({name: parameter.grad for name, parameter in module.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=1e-8)


def test_every_width_may_be_tested_the_widest_first(make, model):
    method = make("heterofl")
    networks = method.tested_networks()
    assert [network.name for network in networks] == ["width 1", "width 1/2", "width 1/4", "width 1/8", "width 1/16"]
    channels = [network.build().stage_channels for network in networks]
    assert channels == [task.build().stage_channels for task in method.tasks()]
    half = shown(method, 1).state_dict()
    assert all(torch.equal(value, leading(method.global_state[name], value.shape)) for name, value in half.items())
