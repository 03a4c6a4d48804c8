"""DepthFL, InclusiveFL and what they share."""

import math

import pytest
import torch
from torch import nn

from profl.baselines.depth import MeanLogits, MultiExit
from profl.baselines.depthfl import AttentionGate, ExitsTask, distillation_weight, divergence, separable
from profl.bench.aggregation import Update
from profl.bench.errors import InputError
from profl.bench.models import ModelSpec
from profl.bench.registry import create_method
from tests.conftest import shown
from tests.oracles import parameter_counts
from tests.oracles.mutual_distillation import depthfl_loss

DEPTH_METHODS = ["depthfl", "inclusivefl"]


def parameters(task):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in task.build().parameters())


def outputs(method, inputs):
    return shown(method).eval()(inputs)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("depthfl", (433_482, 1_254_996, 3_699_806, 12_098_664)),
        # The exits of InclusiveFL are ProgFed's heads: average and linear layer of the stage's own channels.
        ("inclusivefl", (150_474, 676_682, 2_777_674, 11_173_962)),
    ],
)
def test_parameters_at_every_depth(name, published):
    tasks = create_method(name, ModelSpec("resnet18", 64, 10), rounds=1, seed=0).all_tasks()
    assert [task.key for task in tasks] == ["depth 4", "depth 3", "depth 2", "depth 1"]
    assert tuple(parameters(task) for task in reversed(tasks)) == published


def shape(name, width):
    """Parameters of stem and stages, and the channels that leave the stages."""
    if name == "mobilenet_v2":
        return parameter_counts.mobilenet_v2_parts(width), [math.ceil(width * c / 32) for c in (24, 32, 96, 1280)]
    channels = parameter_counts.widths(width, 1)
    if name == "vgg11_bn":
        return parameter_counts.vgg_parts((1, 1, 2, 4), width), channels[1:]
    blocks = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}[name]
    return parameter_counts.resnet_parts(blocks, width), channels


@pytest.mark.parametrize("width", [5, 64])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "vgg11_bn", "mobilenet_v2"])
@pytest.mark.parametrize("method", DEPTH_METHODS)
def test_parameters_at_every_depth_by_arithmetic(method, name, width):
    parts, channels = shape(name, width)
    tasks = create_method(method, ModelSpec(name, width, 7), rounds=1, seed=0).all_tasks()
    depths = range(1, len(channels) + 1)
    assert [task.depth for task in tasks] == list(reversed(depths))
    counted = {task.depth: parameters(task) for task in tasks}
    assert counted == {depth: getattr(parameter_counts, method)(parts, channels, 7, depth) for depth in depths}


# Global model


@pytest.mark.parametrize("name", DEPTH_METHODS)
def test_every_depth_may_be_tested_the_deepest_first(name, make):
    method = make(name)
    assert [network.name for network in method.tested_networks()] == ["depth 4", "depth 3", "depth 2", "depth 1"]
    assert [len(shown(method, place).stages) for place in range(4)] == [4, 3, 2, 1]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_depthfl_averages_the_logits_of_all_exits_of_a_depth(depth, make, train, batch):
    method, inputs = make("depthfl"), batch()[0]
    method.aggregate([train(method, task) for task in method.tasks()])
    module = method.tasks()[0].build().eval()
    module.load_state_dict(method.global_state)
    exits = module(inputs)
    assert len(exits) == 4
    torch.testing.assert_close(shown(method, 4 - depth).eval()(inputs), sum(exits[:depth]) / depth)


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_depthfl_can_test_one_exit(depth, make, train, batch):
    method, inputs = make("depthfl", tested_exit=depth), batch()[0]
    method.aggregate([train(method, method.tasks()[0])])
    module = method.tasks()[0].build().eval()
    module.load_state_dict(method.global_state)
    torch.testing.assert_close(outputs(method, inputs), module(inputs)[depth - 1])


def test_inclusivefl_tests_the_deepest_exit_alone(make, train, batch, model):
    method, inputs = make("inclusivefl"), batch()[0]
    method.aggregate([train(method, task) for task in method.tasks()])
    full = model.build().eval()
    full.load_state_dict({key: method.global_state[key.replace("head.", "exits.4.")] for key in full.state_dict()})
    assert torch.equal(outputs(method, inputs), full(inputs))


def test_inclusivefl_trains_the_exit_of_its_own_depth_only(make, train):
    method = make("inclusivefl")
    for depth, task in zip((4, 3, 2, 1), method.tasks(), strict=True):
        exits = {key.split(".")[1] for key in train(method, task).state if key.startswith("exits.")}
        assert exits == {str(depth)}


@pytest.mark.parametrize("name", DEPTH_METHODS)
def test_each_tensor_is_averaged_over_the_devices_that_hold_it(name, make):
    # Users of depth 1 to 4 hold the values 1 to 4.
    method = make(name)
    updates = []
    for user, task in enumerate(reversed(method.tasks()), start=1):
        with torch.device("meta"):
            names = task.build().state_dict()
        updates.append(Update({key: torch.full_like(method.global_state[key], user) for key in names}, 1))
    method.aggregate(updates)
    means = [method.global_state[f"stages.{stage}.0.conv1.weight"].unique().tolist() for stage in range(4)]
    assert means == [[2.5], [3.0], [3.5], [4.0]]
    assert method.global_state["exits.4.2.bias"].unique().tolist() == [4.0]


@pytest.mark.parametrize(("options", "mean"), [({}, 2.5), ({"weighted_by_examples": False}, 2.0)])
def test_inclusivefl_weighs_devices_by_their_examples(options, mean, make):
    method = make("inclusivefl", **options)
    updates = [Update({"exits.4.2.bias": torch.full((10,), value)}, count) for value, count in ((1.0, 10), (3.0, 30))]
    method.aggregate(updates)
    assert method.global_state["exits.4.2.bias"].unique().tolist() == [mean]


# DepthFL's loss


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_against_its_definition(depth, weight, make, model, context, batch):
    task = ExitsTask(model, depth, weight)
    module = task.build()
    task.load(module, make("depthfl").global_state, context())
    with torch.no_grad():
        for part in module.exits.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight)  # so that the exits disagree
    inputs, targets = batch()
    exits = [logits.detach().double().numpy() for logits in module(inputs)]
    assert len(exits) == depth
    loss = task.loss(module, inputs, targets)
    assert float(loss.detach()) == pytest.approx(depthfl_loss(exits, targets.numpy(), weight), rel=1e-5)


def test_the_teacher_learns_nothing_from_its_pupil():
    pupil, teacher = torch.randn(3, 10, requires_grad=True), torch.randn(3, 10, requires_grad=True)
    divergence(pupil, teacher).backward()
    expected = (pupil.softmax(dim=1) - teacher.softmax(dim=1)) / 3
    torch.testing.assert_close(pupil.grad, expected.detach())
    assert teacher.grad is None


def test_the_distillation_ramps_up_over_the_rounds():
    # 300 rounds, as published: exp(-5), exp(-5/4), 1.
    assert distillation_weight(0, 300) == pytest.approx(0.006737946999085467)
    assert distillation_weight(150, 300) == pytest.approx(0.2865047968601901)
    assert distillation_weight(300, 300) == distillation_weight(999, 300) == 1


@pytest.mark.parametrize(("options", "ramp"), [({}, 30), ({"ramp_rounds": 7}, 7)])
def test_the_tasks_carry_the_rounds_weight_and_keep_their_key(options, ramp, make):
    method = make("depthfl", rounds=100, **options)
    keys = [task.key for task in method.tasks()]
    for finished in range(41):
        method.finished_rounds = finished
        assert {task.distillation for task in method.tasks()} == {distillation_weight(finished, ramp)}
        assert [task.key for task in method.tasks()] == keys
    assert method.tasks()[0].distillation == 1


def test_a_short_run_still_has_a_ramp(make):
    assert make("depthfl", rounds=1).tasks()[0].distillation == pytest.approx(math.exp(-5))


@pytest.mark.parametrize("options", [{"tested_exit": 0}, {"tested_exit": 5}, {"ramp_rounds": 0}, {"ramp_rounds": -3}])
def test_impossible_options_are_refused(options, make):
    with pytest.raises(InputError, match=next(iter(options))):
        make("depthfl", **options)


# DepthFL's exits


def test_the_gate_is_the_papers():
    gate = AttentionGate(6).eval()
    papers = nn.Sequential(gate.gate, nn.Upsample(scale_factor=2, mode="bilinear"), nn.Sigmoid())
    features = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(gate(features), papers(features) * features)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_gate_keeps_the_shape_of_small_and_odd_features(size):
    assert AttentionGate(3)(torch.randn(2, 3, size, size)).shape == (2, 3, size, size)


def test_a_separable_convolution_halves_the_picture_and_mixes_channels_pointwise():
    module = separable(6, 10)
    convs = [part for part in module if isinstance(part, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0], c.groups, c.out_channels) for c in convs] == [
        (3, 2, 6, 6),
        (1, 1, 1, 6),
        (3, 1, 6, 6),
        (1, 1, 1, 10),
    ]
    assert module(torch.randn(2, 6, 16, 16)).shape == (2, 10, 8, 8)


def test_every_exit_of_depthfl_sees_its_own_stage_and_no_later_one(make, batch):
    task = make("depthfl").tasks()[0]
    module = task.build().eval()
    inputs = batch()[0]
    before = module(inputs)
    with torch.no_grad():
        module.stages[2][0].conv1.weight.zero_()
    changed = [not torch.equal(a, b) for a, b in zip(before, module(inputs), strict=True)]
    assert changed == [False, False, True, True]


def test_the_mean_of_one_exit_is_that_exit(model, batch):
    network = MeanLogits(*_parts(ExitsTask(model, 1, 1.0).build())).eval()
    inputs = batch()[0]
    assert torch.equal(network(inputs), MultiExit(*_parts(network)).eval()(inputs)[0])


def _parts(network):
    return network.stem, network.stages, {int(depth): part for depth, part in network.exits.items()}
