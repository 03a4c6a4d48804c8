"""NeuLite: whose turn it is, what trains along, and its loss."""

import pytest
import torch
from torch.nn import functional

from profl.baselines.neulite import last_convolution, normalised_hsic
from profl.bench.conformance import loaded
from profl.bench.errors import InputError
from profl.bench.models import ModelSpec, StagedModel, global_average_head
from profl.bench.registry import create_method
from tests.conftest import plug_in, shown
from tests.oracles import dependence, progressive

PAPER = ModelSpec("resnet18", 64, 10)


def trainable(task):
    with torch.device("meta"):
        return {name: value for name, value in task.build().named_parameters() if value.requires_grad}


def test_a_device_trains_block_output_module_projection_and_the_end_of_the_block_before():
    tasks = create_method("neulite", PAPER, rounds=4, seed=0).all_tasks()
    assert [task.key for task in tasks] == ["turn 1", "turn 2", "turn 3", "turn 4"]
    projection = (512 * 2048 + 2048) + (2048 * 1024 + 1024) + (1024 * 512 + 512)
    ends = [0, *(9 * channels**2 + 2 * channels for channels in (64, 128, 256))]
    counted = [sum(value.numel() for value in trainable(task).values()) for task in tasks]
    assert counted == [progressive.TRAINABLE[stage] + ends[stage] + projection for stage in range(4)]


def test_what_trains_along_is_the_end_of_the_main_way(make):
    names = {name for name in trainable(make("neulite").all_tasks()[2]) if "stages.1" in name}
    assert names == {"stages.1.1.conv2.weight", "stages.1.1.bn2.weight", "stages.1.1.bn2.bias"}


def test_a_shortcut_is_not_the_end_of_a_stage():
    part = ModelSpec("resnet10_stride2", 4, 10).skeleton().stages[1]  # one residual block, with a shortcut that strides
    names = {module: name for name, module in part.named_modules()}
    assert [names[module] for module in last_convolution(part)] == ["0.conv2", "0.bn2"]


def test_the_end_of_a_stage_of_vgg_lies_in_front_of_activation_and_pooling():
    part = ModelSpec("vgg11_bn", 4, 10).skeleton().stages[2]
    assert [type(module).__name__ for module in last_convolution(part)] == ["Conv2d", "BatchNorm2d"]
    assert last_convolution(part)[0] is [module for module in part if isinstance(module, torch.nn.Conv2d)][-1]


def test_blocks_take_turns_for_ever(make):
    method, phases = make("neulite", rounds=9), []
    for finished in range(9):
        method.finished_rounds = finished
        phases.append(method.phase)
    assert phases == [f"turn {block}/4" for block in (1, 2, 3, 4, 1, 2, 3, 4, 1)]


def test_every_stage_has_an_output_module_of_its_own(make, train):
    method = make("neulite")
    method.finished_rounds = 1
    before = {name: value.clone() for name, value in method.global_state.items()}
    method.aggregate([train(method, method.tasks()[0], seed) for seed in (1, 2)])
    moved = {name for name, value in before.items() if not torch.equal(value, method.global_state[name])}
    weights = {name for name in moved if "running" not in name and "batches" not in name}
    assert {".".join(name.split(".")[:2]) for name in weights} == {
        "stages.0",
        "stages.1",
        "outputs.2",
        "projections.2",
    }
    assert {name for name in weights if name.startswith("stages.0")} == {
        "stages.0.1.conv2.weight",
        "stages.0.1.bn2.weight",
        "stages.0.1.bn2.bias",
    }


@pytest.mark.parametrize("block", [1, 3, 4])
def test_the_loss_against_its_definition(block, make, model, context, batch):
    method = make("neulite", input_weight=0.7, label_weight=2.0)
    method.finished_rounds = block - 1
    (task,) = method.tasks()
    module, (inputs, targets) = loaded(method, task, context()).double(), batch()
    inputs = inputs.double()
    loss = float(task.loss(module, inputs, targets).detach())
    # The same stage by hand: a network of ours, plain convolutions behind it, average and linear layers.
    state = {name: value.double() for name, value in method.global_state.items()}
    size, reference = str(block), model.build().double()
    reference.load_state_dict(
        {name: value for name, value in state.items() if "stem" in name or "stages" in name}, False
    )
    features = reference.stem(inputs)
    for stage in reference.stages[:block]:
        features = stage(features)
    for place in range(4 - block):
        features = functional.conv2d(features, state[f"outputs.{size}.{place}.weight"], stride=2, padding=1)
    average = features.mean((2, 3))
    head = f"outputs.{size}.{4 - block}.2"
    logits = functional.linear(average, state[f"{head}.weight"], state[f"{head}.bias"])
    projected = average
    for layer in range(3):
        projected = functional.linear(
            projected, state[f"projections.{size}.{layer}.weight"], state[f"projections.{size}.{layer}.bias"]
        )
    of_input = dependence.normalised_hsic(features.detach().flatten(1), inputs.flatten(1))
    of_labels = dependence.normalised_hsic(projected.detach(), functional.one_hot(targets, 10))
    wanted = float(functional.cross_entropy(logits, targets).detach())
    wanted -= 0.7 * (5 - block) / 4 * of_input + 2.0 * block / 4 * of_labels
    assert loss == pytest.approx(wanted, abs=1e-7)


def test_dependence_is_normalised():
    one, other = torch.randn(5, 7), torch.randn(5, 3) * 4
    torch.testing.assert_close(normalised_hsic(one, one), torch.tensor(1.0))
    found = normalised_hsic(one.double(), other.double())
    assert float(found) == pytest.approx(dependence.normalised_hsic(one, other), rel=1e-9)
    assert 0 < found < 1


@pytest.mark.parametrize("vectors", [torch.randn(1, 6), torch.full((4, 6), 1.37)])
def test_one_example_or_all_alike_depend_on_nothing_and_give_no_gradient(vectors):
    vectors.requires_grad_()
    found = normalised_hsic(vectors, torch.randn(len(vectors), 5))
    found.backward()
    assert found == 0
    assert not vectors.grad.any()


def test_the_deepest_stage_is_the_full_model(make, batch, model):
    method, inputs = make("neulite"), batch()[0]
    full = model.build().eval()
    full.load_state_dict({name: method.global_state[name.replace("head", "outputs.4.0")] for name in full.state_dict()})
    assert torch.equal(shown(method).eval()(inputs), full(inputs))
    names = [network.name for network in method.tested_networks()]
    assert names == [f"{block} of 4 blocks" for block in (4, 3, 2, 1)]


def flat(spec):
    return StagedModel(
        torch.nn.Flatten(1), [torch.nn.Linear(3072, 4)], global_average_head(4, spec.classes), (4, 4), (1,)
    )


def test_what_makes_no_sense_is_refused(make, monkeypatch):
    with pytest.raises(InputError, match=r"cannot train resnet18 in 3 rounds: give it at least 4$"):
        make("neulite", rounds=3)
    with pytest.raises(InputError, match="input_weight"):
        make("neulite", input_weight=-1.0)
    plug_in(monkeypatch, "profl.models", "flat", f"{__name__}:flat")
    with pytest.raises(InputError, match="cannot train flat, as its block 1 has no convolution"):
        create_method("neulite", ModelSpec("flat", 4, 10), rounds=4, seed=0)
