from collections import Counter
from fractions import Fraction

import pytest
import torch

from profl.baselines.fedrolex import Window
from profl.bench.conformance import loaded
from profl.bench.errors import InputError
from tests.oracles.fedrolex import window

GOLDEN = {0: [0, 1, 2, 3], 1: [63, 0, 1, 2], 7: [57, 58, 59, 60], 64: [0, 1, 2, 3]}
"""Of 64 channels at rate 1/16: the published code, run."""


def after(method, rounds):
    method.finished_rounds = rounds
    return method


def test_the_window_is_that_of_the_published_code(context):
    assert {turn: Window(turn)(4, 64, context()).tolist() for turn in GOLDEN} == GOLDEN


@pytest.mark.parametrize(("part", "whole"), [(1, 5), (4, 64), (3, 7), (6, 7)])
def test_the_window_against_one_written_out(part, whole, context):
    turns = range(2 * whole + 1)
    chosen = [Window(turn)(part, whole, context()).tolist() for turn in turns]
    assert chosen == [window(turn, part, whole) for turn in turns]
    trained = Counter(index for channels in chosen[:whole] for index in channels)
    assert trained == dict.fromkeys(range(whole), part)  # evenly


def test_it_rolls_by_one_channel_a_round_and_keeps_the_key(make, context):
    method = make("fedrolex")
    keys = [task.key for task in method.tasks()]
    assert keys == [task.key for task in make("heterofl").tasks()]
    for finished in range(3):
        method.finished_rounds = finished
        half = loaded(method, method.tasks()[1], context()).state_dict()
        rows, columns = window(finished, 4, 8), window(finished, 2, 4)
        name = "stages.1.0.conv1.weight"
        assert torch.equal(half[name], method.global_state[name][rows][:, columns])
        assert torch.equal(half["head.2.bias"], method.global_state["head.2.bias"])
        assert [task.key for task in method.tasks()] == keys


def test_its_first_round_and_its_widest_network_are_those_of_heterofl(make, train):
    rolled, leading = make("fedrolex"), make("heterofl")
    pairs = [(rolled, leading, 1), (after(make("fedrolex"), 5), leading, 0)]
    for ours, theirs, number in pairs:
        sent, expected = (train(method, method.tasks()[number], classes=[1, 4]) for method in (ours, theirs))
        assert sent.state.keys() == expected.state.keys()
        assert all(torch.equal(value, expected.state[name]) for name, value in sent.state.items())
        assert sent.uploaded_bytes == expected.uploaded_bytes


def test_what_a_device_sends_lands_in_its_window_and_its_classes(make, train):
    method = after(make("fedrolex"), 3)
    before = {name: value.clone() for name, value in method.global_state.items()}
    method.aggregate([train(method, method.tasks()[2], classes=[2, 9])])
    rows, columns = window(3, 2, 8), window(3, 1, 4)
    changed = method.global_state["stages.1.0.conv1.weight"] != before["stages.1.0.conv1.weight"]
    assert changed.any(dim=(1, 2, 3)).nonzero().flatten().tolist() == sorted(rows)
    assert changed.any(dim=(0, 2, 3)).nonzero().flatten().tolist() == sorted(columns)
    changed = method.global_state["head.2.weight"] != before["head.2.weight"]
    assert changed.any(dim=1).nonzero().flatten().tolist() == [2, 9]
    assert changed.any(dim=0).nonzero().flatten().tolist() == sorted(window(3, 8, 32))


def test_only_the_full_model_is_tested(make):
    assert [network.name for network in make("fedrolex").tested_networks()] == ["full model"]


def test_options_are_those_of_heterofl(make):
    assert [task.model.rate for task in make("fedrolex", rates=["1/3", 1]).all_tasks()] == [1, Fraction(1, 3)]
    with pytest.raises(InputError, match="rates must be different"):
        make("fedrolex", rates=["2"])
