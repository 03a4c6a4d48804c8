from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import cycle, islice

import numpy as np
import pytest
import torch
from torch.nn import functional

from profl.baselines.width import load_leading
from profl.bench.aggregation import Update, leading
from profl.bench.conformance import loaded
from profl.bench.method import LocalContext
from profl.bench.models.normalisation import normalise
from profl.bench.randomness import torch_generator
from tests.oracles.fjord import nested_mean

RATES = [Fraction(5 - place, 5) for place in range(5)]


def device(number=0):
    return LocalContext(torch_generator(3, "local", 1, number), torch.ones(10, dtype=torch.bool), 6)


def drawn(module, count):
    return list(islice(vars(module)["rates"], count))


@pytest.fixture
def task(make):
    return make("fjord").tasks()[1]


def test_it_offers_the_papers_rates_widest_first(make):
    keys = [task.key for task in make("fjord").all_tasks()]
    assert keys == ["up to width 1", *(f"up to width {part}/5" for part in (4, 3, 2, 1))]
    assert [network.name for network in make("fjord").tested_networks()] == [key[6:] for key in keys]
    assert make("fjord", self_distillation=True).tasks()[0].key == "up to width 1 distilled"


def test_rates_are_drawn_uniformly_up_to_the_devices_own(make, task):
    module = loaded(make("fjord"), task, device())
    counts = Counter(drawn(module, 800))
    # 200 each: a binomial of 800 and 1/4 is 12 off at one standard deviation.
    assert {*counts} == {*RATES[1:]}
    assert all(abs(count - 200) < 60 for count in counts.values())


def test_draws_follow_from_the_device_alone(make, task):
    method = make("fjord")
    module, other = loaded(method, task, device()), loaded(method, task, device(1))
    first = drawn(module, 20)
    assert drawn(other, 20) != first
    task.load(module, method.global_state, device())
    assert drawn(module, 20) == first


def test_while_memory_is_measured_every_second_batch_is_of_the_widest(task, make):
    with torch.device("meta"):
        module, narrowest = task.build(), make("fjord").tasks()[-1].build()
    assert drawn(module, 7) == [RATES[place] for place in (1, 2, 1, 3, 1, 4, 1)]
    assert drawn(narrowest, 2) == [RATES[-1]] * 2


@pytest.mark.parametrize("rate", [RATES[1], RATES[3]])
def test_a_batch_trains_the_narrow_network_and_nothing_else(rate, make, task, model, batch):
    method = make("fjord")
    module, narrow = loaded(method, task, device()), model.at_rate(rate).build()
    normalise(narrow, "static")
    load_leading(narrow, method.global_state)
    vars(module)["rates"] = cycle([rate])
    inputs, targets = batch()
    loss, expected = task.loss(module, inputs, targets), functional.cross_entropy(narrow(inputs), targets)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    wide = dict(module.named_parameters())
    for name, parameter in narrow.named_parameters():
        torch.testing.assert_close(leading(wide[name].grad, parameter.shape), parameter.grad, rtol=1e-4, atol=1e-6)
        leading(wide[name].grad, parameter.shape).zero_()
        assert not wide[name].grad.any(), name


def test_the_drawn_network_learns_from_the_widest(make, task, batch):
    method = make("fjord")
    distilled = replace(task, distilled=True)
    module = loaded(method, distilled, device())
    vars(module)["rates"] = cycle([RATES[3]])
    inputs, targets = batch()
    widest, narrow = (task.logits(module, rate, inputs).detach().double() for rate in (RATES[1], RATES[3]))
    hard = -widest.log_softmax(1)[torch.arange(6), targets].mean()
    soft = -(widest.exp() / widest.exp().sum(1, keepdim=True) * narrow.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(distilled.loss(module, inputs, targets).double(), hard + soft)


def test_the_server_averages_as_the_authors_baseline(make):
    method, draw = make("fjord"), np.random.default_rng(1)
    name = "stages.3.0.conv2.weight"
    before = method.global_state[name].numpy().copy()
    uploads = []
    for place, examples in [(1, 3), (3, 8), (3, 1), (4, 5)]:
        shape = method.tasks()[place].build().state_dict()[name].shape
        uploads.append((draw.standard_normal(shape).astype(np.float32), examples))
    method.aggregate([Update({name: torch.from_numpy(values)}, examples) for values, examples in uploads])
    np.testing.assert_allclose(method.global_state[name].numpy(), nested_mean(before, uploads), rtol=1e-6)
    assert (method.global_state[name][26:].numpy() == before[26:]).all()  # 4/5 of 32, rounded up
