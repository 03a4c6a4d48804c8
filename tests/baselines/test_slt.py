"""SLT: wide blocks in front, narrow ones behind, and the widths and rounds of its steps."""

from fractions import Fraction
from itertools import accumulate, groupby

import pytest
import torch
from torch import nn

from profl.baselines.slt import WidenedTask, readers, widened
from profl.baselines.width import load_leading
from profl.bench.aggregation import Update, leading
from profl.bench.errors import InputError
from profl.bench.models import ModelSpec, StagedModel, global_average_head
from profl.bench.registry import create_method
from tests.conftest import plug_in, shown
from tests.oracles import progressive
from tests.oracles.naive_mean import naive_owner_mean

HALF, FULL = Fraction(1, 2), Fraction(1)


def settle(method, *widths):
    """Let as many devices as any train these widths behind block 1, 2 and so on, and nobody a wider one."""
    chosen = {task.key for block, width in enumerate(widths, 1) for task in method._offers(block) if task.rate <= width}
    method.settle({task.key: 7 * (task.key in chosen) for task in method.all_tasks()})


def played(method):
    """The task of every round, in their order and without repetition, with its number of rounds."""
    keys = []
    for finished in range(method.rounds):
        method.finished_rounds = finished
        keys.append(method.tasks()[0].key)
    return {key: len(list(rounds)) for key, rounds in groupby(keys)}


@pytest.mark.parametrize(("name", "first"), [("resnet18", ("0.conv1", "0.downsample.0")), ("vgg11_bn", ("0",))])
def test_the_layers_that_read_a_blocks_input_are_found(name, first):
    assert readers(ModelSpec(name, 4, 10), 1) == readers(ModelSpec(name, 4, 10), 2) == first


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 0), ("resnet18", 1), ("resnet18", 3), ("vgg11_bn", 2)])
def test_it_computes_what_the_full_model_does_with_the_later_blocks_other_channels_silent(
    name, blocks, training, batch
):
    spec = ModelSpec(name, width=6, classes=10)
    full, narrow = spec.build(), widened(spec, blocks, HALF)
    for norm in full.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean, std=0.1)
    load_leading(narrow, full.state_dict())
    behind = [full.stages[blocks:], narrow.stages[blocks:]]
    if blocks == 0:
        behind = [full, narrow]
    with torch.no_grad():
        for wide, thin in zip(behind[0].modules(), behind[1].modules(), strict=True):
            if isinstance(wide, nn.BatchNorm2d):
                wide.weight[len(thin.weight) :] = 0
                wide.bias[len(thin.weight) :] = 0
    inputs, _ = batch()
    torch.testing.assert_close(narrow.train(training)(inputs), full.train(training)(inputs), rtol=1e-4, atol=1e-5)


def test_all_channels_of_the_wide_block_learn():
    network = widened(ModelSpec("resnet18", 4, 10), 2, HALF)
    network(torch.randn(4, 3, 32, 32)).sum().backward()
    assert network.stages[1][1].conv2.weight.shape[0] == 8
    assert network.stages[1][1].conv2.weight.grad.abs().sum(dim=(1, 2, 3)).min() > 0


@pytest.mark.parametrize("rounds", [60, 1000])
def test_rounds_are_those_of_the_published_formula(rounds, make):
    method = make("slt", rounds=rounds)
    settle(method, Fraction(1, 8), Fraction(1, 4), HALF)
    tasks = [WidenedTask(method.model, b, r) for b, r in ((1, "1/8"), (2, "1/4"), (3, "1/2"), (4, "1"))]
    trained = []
    for block, rate in enumerate((Fraction(1, 8), Fraction(1, 4), HALF, FULL), start=1):
        parts = widened(method.model, block, rate)
        frozen = [parts.stem, *parts.stages[: block - 1]] if block > 1 else []
        of_all, of_frozen = (sum(v.numel() for part in group for v in part.parameters()) for group in ([parts], frozen))
        trained.append(of_all - of_frozen)
    wanted = progressive.slt_switches(rounds, 1 / 8, trained)
    found = played(method)
    assert list(found) == ["narrow 1/8", *(task.key for task in tasks)]
    ends = list(accumulate(found.values()))
    assert ends[-1] == rounds
    assert ends == pytest.approx(wanted, abs=1)


def test_the_width_of_a_step_is_the_widest_that_as_many_can_train_as_any(make):
    method = make("slt", rounds=60)
    settle(method, Fraction(1, 16), Fraction(1, 4), Fraction(1, 4))
    assert list(played(method)) == [
        "narrow 1/16",
        "grow 1 width 1/16",
        "grow 2 width 1/4",
        "grow 3 width 1/4",
        "grow 4 width 1",
    ]


def test_a_step_at_full_width_is_the_last(make):
    method = make("slt", rounds=60)
    settle(method, HALF, FULL, Fraction(1, 4))
    assert list(played(method)) == ["narrow 1/2", "grow 1 width 1/2", "grow 2 width 1"]


def test_if_all_can_train_the_full_model_it_is_federated_averaging(make, train):
    method, fedavg = make("slt"), make("fedavg")
    settle(method, FULL)
    for one in (method, fedavg):
        one.aggregate([train(one, one.tasks()[0], seed) for seed in (1, 2)])
    assert all(torch.equal(value, fedavg.global_state[name]) for name, value in method.global_state.items())
    assert list(played(method)) == ["narrow 1"]


def test_if_nobody_can_train_a_step_it_is_as_narrow_as_can_be(make):
    method = make("slt", rounds=60, rates=["1/2", "1/4"])
    settle(method)
    assert list(played(method))[:2] == ["narrow 1/4", "grow 1 width 1/4"]


def test_each_element_is_averaged_over_the_devices_that_hold_it(make):
    method, name = make("slt"), "stages.2.0.conv1.weight"
    before = method.global_state[name].clone()
    uploads = []
    for block, rate in ((2, HALF), (2, Fraction(1, 4)), (1, HALF)):
        with torch.device("meta"):
            shape = widened(method.model, block, rate).get_parameter(name).shape
        uploads.append(torch.randn(shape))
    assert [tuple(value.shape[:2]) for value in uploads] == [(8, 8), (4, 8), (8, 4)]
    method.aggregate([Update({name: value}, examples=1) for value in uploads])
    leading_places = [(value.numpy(), [range(size) for size in value.shape]) for value in uploads]
    wanted = naive_owner_mean(before.numpy(), leading_places)
    torch.testing.assert_close(method.global_state[name], torch.from_numpy(wanted))


def test_frozen_blocks_keep_their_weights_and_the_wide_one_trains_whole(make, train):
    method = make("slt")
    update = train(method, WidenedTask(method.model, 2, HALF))
    weights = {name for name in update.state if "running" not in name and "batches" not in name}
    assert {name.split(".")[1] for name in weights if name.startswith("stages")} == {"1", "2", "3"}
    assert not any(name.startswith("stem") for name in weights)
    sizes = {name: (len(update.state[name]), len(method.global_state[name])) for name in weights}
    assert sizes["stages.1.1.conv2.weight"] == (8, 8)
    assert sizes["stages.2.0.conv1.weight"] == (8, 16)
    assert update.state["head.2.weight"].shape == (10, 16)


def test_the_network_of_the_step_is_tested_and_those_before_it_after(make):
    method = make("slt", rounds=60)
    settle(method, Fraction(1, 4), HALF, HALF)
    while method.phase != "grow 2/4":
        method.finished_rounds += 1
    names = [network.name for network in method.tested_networks()]
    assert names == ["2 wide, width 1/2", "1 wide, width 1/4", "0 wide, width 1/4"]
    for name, value in shown(method).state_dict().items():
        assert torch.equal(value, leading(method.global_state[name], value.shape))


def test_a_run_goes_on_with_its_widths(make):
    method, other = make("slt", rounds=60), make("slt", rounds=60)
    settle(method, Fraction(1, 8), HALF, HALF)
    other.load_state_dict(method.state_dict())
    for one in (method, other):
        one.finished_rounds = 30
    assert (other.tasks(), other.phase) == (method.tasks(), method.phase)
    assert played(other) == played(method)


class Twice(nn.Module):
    def forward(self, features):
        return 2 * features


@pytest.mark.parametrize(("reader", "told"), [(nn.AvgPool2d(1), "AvgPool2d does"), (Twice(), "Twice does")])
def test_a_block_whose_input_cannot_be_cut_is_refused(reader, told, monkeypatch):
    def build(spec):
        return StagedModel(nn.Identity(), [nn.Conv2d(3, 4, 1), reader], global_average_head(4, 10), (3, 4, 4), (1, 1))

    monkeypatch.setattr(f"{__name__}.build_plugged", build, raising=False)
    readers.cache_clear()
    plug_in(monkeypatch, "profl.models", "plugged", f"{__name__}:build_plugged")
    message = rf"cannot train plugged, whose block 2 must read its input by convolutions alone: {told}"
    with pytest.raises(InputError, match=message):
        create_method("slt", ModelSpec("plugged", 4, 10), rounds=10, seed=0)


def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(InputError, match=r"cannot train resnet18 in 4 rounds: give it at least 5$"):
        make("slt", rounds=4)
    with pytest.raises(InputError, match="rates"):
        make("slt", rates=["2"])
