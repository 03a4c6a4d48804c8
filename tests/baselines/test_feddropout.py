from collections import Counter

import pytest
import torch

from profl.baselines.feddropout import drawn
from profl.bench.aggregation import taken
from profl.bench.conformance import loaded
from profl.bench.method import LocalContext
from profl.bench.randomness import torch_generator

CLASSES = torch.ones(10, dtype=torch.bool)


def device(number=0, round_number=1):
    return LocalContext(torch_generator(3, "local", round_number, number), CLASSES, 6)


def test_a_draw_has_the_right_size_and_no_channel_twice():
    for part, whole in [(1, 64), (4, 64), (63, 64), (3, 5)]:
        channels = drawn(part, whole, device()).tolist()
        assert len(channels) == len({*channels} & {*range(whole)}) == part
        assert channels == sorted(channels)


def test_devices_and_rounds_draw_anew_and_one_device_always_the_same():
    draws = {tuple(drawn(8, 64, device(*of)).tolist()) for of in [(0, 1), (1, 1), (0, 2), (1, 2)]}
    assert len(draws) == 4
    one = device()
    before = drawn(8, 64, one)
    torch.randperm(100, generator=one.generator)  # as training does
    assert torch.equal(drawn(8, 64, one), before)


def test_all_channels_are_drawn_alike():
    counts = Counter(index for number in range(800) for index in drawn(2, 8, device(number)).tolist())
    # 200 each: a binomial of 800 and 1/4 is 12 off at one standard deviation.
    assert {*counts} == {*range(8)}
    assert all(abs(count - 200) < 60 for count in counts.values())


def test_layers_of_one_width_train_the_same_channels_and_kernels_stay_whole(make):
    method, local = make("feddropout"), device()
    task = method.tasks()[1]
    half = loaded(method, task, local).state_dict()
    four, eight = drawn(2, 4, local), drawn(4, 8, local)
    whole = torch.arange(3)
    for name, rows, columns in [
        ("stem.0.weight", four, whole),  # colours
        ("stages.0.1.conv2.weight", four, four),
        ("stages.1.0.conv1.weight", eight, four),
        ("stages.1.0.downsample.0.weight", eight, four),
        ("stages.1.1.conv2.weight", eight, eight),
    ]:
        assert torch.equal(half[name], method.global_state[name][rows][:, columns]), name
    assert torch.equal(half["stages.1.0.bn2.weight"], method.global_state["stages.1.0.bn2.weight"][eight])


def test_what_a_device_sends_belongs_where_it_was_taken_from(make):
    method, local = make("feddropout"), device(5)
    task = method.tasks()[2]
    module = loaded(method, task, local)
    torch.randperm(100, generator=local.generator)
    update = task.update(module, method.global_state, local)
    for name, value in update.state.items():
        assert torch.equal(value, taken(method.global_state[name], update.regions[name])), name


@pytest.mark.parametrize("other", ["heterofl", "fedrolex"])
def test_at_rate_one_it_is_the_other_width_methods(make, train, other):
    sent, expected = (train(method, method.tasks()[0], 5, [1, 4]) for method in (make("feddropout"), make(other)))
    assert sent.state.keys() == expected.state.keys()
    assert all(torch.equal(value, expected.state[name]) for name, value in sent.state.items())
