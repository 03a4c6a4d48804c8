from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional

from profl.baselines.fiarse import LargeOnes, maskable
from profl.bench.cell import Recipe
from profl.bench.conformance import loaded
from profl.bench.training import TrainingWorkload
from tests.oracles import fiarse as oracle


@pytest.fixture
def quarter(make):
    return make("fiarse").tasks()[1]


def masks_of(method, share):
    names = maskable(method.model.skeleton())
    arrays = [method.global_state[name].numpy() for name in names]
    return dict(zip(names, oracle.largest(arrays, share), strict=True))


def test_it_offers_the_papers_sizes_largest_first(make):
    assert [task.key for task in make("fiarse").all_tasks()] == [
        f"weights {rate}" for rate in ("1", "1/4", "1/16", "1/64")
    ]


def test_convolutions_and_linear_layers_are_masked_and_norms_are_not(model):
    skeleton = model.skeleton()
    rest = {name for name, _ in skeleton.named_parameters()} - {*maskable(skeleton)}
    assert {"stem.0.weight", "stages.1.0.downsample.0.weight", "head.2.weight", "head.2.bias"} <= {*maskable(skeleton)}
    assert len(rest) == 2 * 20
    assert {"stem.1.weight", "stages.1.0.downsample.1.bias"} <= rest


def test_the_small_weights_count_as_zero(make, quarter, batch, context):
    method = make("fiarse")
    module = loaded(method, quarter, context())
    inputs, targets = batch()
    plain = loaded(method, make("fiarse").tasks()[0], context())
    for name, mask in masks_of(method, Fraction(1, 4)).items():
        plain.get_parameter(name).data[torch.from_numpy(~mask)] = 0
    expected = functional.cross_entropy(plain(inputs), targets)
    torch.testing.assert_close(quarter.loss(module, inputs, targets), expected)
    whole = loaded(method, make("fiarse").tasks()[0], context())
    assert abs(functional.cross_entropy(whole(inputs), targets) - expected) > 1e-3


def test_the_gradient_is_the_threshold_controlled_one():
    draw = np.random.default_rng(0)
    weight, upstream = draw.standard_normal((5, 7)), draw.standard_normal((5, 7))
    tensor = torch.tensor(weight, requires_grad=True)
    LargeOnes.apply(tensor, torch.tensor(0.6, dtype=torch.float64)).backward(torch.from_numpy(upstream))
    np.testing.assert_allclose(tensor.grad.numpy(), oracle.gradient(weight, 0.6, upstream), rtol=1e-12)
    assert 0 < (tensor.grad == 0).sum() < weight.size


def test_zero_weights_have_a_gradient_even_at_threshold_zero():
    weight = torch.zeros(3, requires_grad=True)
    LargeOnes.apply(weight, torch.zeros(())).backward(torch.ones(3))
    assert weight.grad.tolist() == [1, 1, 1]


def test_a_device_sends_what_its_mask_held(make, train, quarter):
    method = make("fiarse")
    masks = masks_of(method, Fraction(1, 4))
    update = train(method, quarter)
    assert {name: mask.tolist() for name, mask in update.masks.items()} == {
        name: mask.tolist() for name, mask in masks.items()
    }
    held = sum(int(mask.sum()) for mask in masks.values())
    rest = sum(value.numel() for name, value in update.state.items() if name not in masks)
    assert held == sum(mask.size for mask in masks.values()) // 4
    assert update.uploaded_bytes == 4 * (held + rest)


def test_the_server_averages_over_the_devices_that_hold_an_element(make, train):
    method = make("fiarse")
    before = {name: value.clone() for name, value in method.global_state.items()}
    updates = [train(method, method.tasks()[number], seed) for seed, number in enumerate([1, 2, 2])]
    masks = [masks_of(method, Fraction(1, 4)), *[masks_of(method, Fraction(1, 16))] * 2]
    method.aggregate(updates)
    for name in ("stem.0.weight", "stages.1.0.downsample.0.weight", "head.2.bias"):
        uploads = [(update.state[name].numpy(), mask[name]) for update, mask in zip(updates, masks, strict=True)]
        expected = oracle.mean_of_holders(before[name].numpy(), uploads)
        np.testing.assert_array_equal(method.global_state[name].numpy(), expected)


def test_the_whole_network_trains_as_in_heterofl_but_for_absent_classes(make, train):
    sent, plain = train(make("fiarse"), make("fiarse").tasks()[0]), make("heterofl", max_gradient_norm=0)
    expected = train(plain, plain.tasks()[0])
    assert not sent.masks
    assert all(torch.equal(value, sent.state[name]) for name, value in expected.state.items())


def test_a_mask_saves_no_memory(make, prober):
    tasks, recipe = make("fiarse").tasks(), Recipe(batch_size=8)
    peaks = [
        prober.measure(
            TrainingWorkload("fiarse", task.model, task, recipe), "virtual:jetson-orin", least_budget=False
        ).peak_requested_bytes
        for task in (tasks[0], tasks[1], tasks[3])
    ]
    assert peaks[0] < peaks[1] == peaks[2]
