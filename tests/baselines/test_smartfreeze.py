"""SmartFreeze: ProFL's growing alone, and what ends a step."""

import math
from itertools import groupby

import pytest
import torch

from profl.bench.aggregation import Update
from profl.bench.conformance import loaded
from profl.bench.errors import InputError
from profl.bench.method import RoundSummary
from profl.bench.models import ModelSpec
from profl.bench.registry import create_method
from tests.conftest import shown
from tests.oracles import progressive

PAPER = ModelSpec("resnet18", 64, 10)
EAGER = {"perturbation_rounds": 3, "slope_window": 4, "slope_evaluations": 2, "slope_threshold": 0.1}
WATCHED = "stages.0.0.bn1.weight"  # the only tensor that moves in what follows


def on_meta(task):
    with torch.device("meta"):
        return task.build()


def block_of_each_round(method, change=lambda value, number: value):
    """Play a run in which one tensor changes as told, and nothing else."""
    found, figures = [], []
    for number in range(1, method.rounds + 1):
        found.append(method.phase)
        method.aggregate([Update({WATCHED: change(method.global_state[WATCHED].clone(), number)}, examples=1)])
        figures.append(method.diagnostics())
        method.finish_round(RoundSummary(number, 1, 1.0))
    return {phase: len(list(rounds)) for phase, rounds in groupby(found)}, figures


def test_a_device_trains_a_block_and_the_published_output_module():
    tasks = create_method("smartfreeze", PAPER, rounds=40, seed=0).all_tasks()
    assert [task.key for task in tasks] == ["grow 1", "grow 2", "grow 3", "grow 4"]
    counted = [sum(p.numel() for p in on_meta(task).parameters() if p.requires_grad) for task in tasks]
    assert tuple(counted) == progressive.TRAINABLE


def test_it_is_profl_without_shrinking(make, train):
    ours, profl = make("smartfreeze", rounds=40), make("profl", rounds=40, shrinking=False)
    assert ours.all_tasks() == profl.all_tasks()
    for method in (ours, profl):
        for number in (1, 2):
            method.aggregate([train(method, method.tasks()[0], seed) for seed in (10 * number, 10 * number + 1)])
            method.finish_round(RoundSummary(number, 2, 1.0))
    assert list(ours.global_state) == list(profl.global_state)
    assert all(torch.equal(value, profl.global_state[name]) for name, value in ours.global_state.items())


@pytest.mark.parametrize("block", [1, 3, 4])
def test_a_step_is_the_blocks_so_far_and_plain_convolutions_behind_them(block, make, model, context, batch):
    method = make("smartfreeze", rounds=4)
    inputs, targets = batch()
    for number in range(1, block):
        method.finish_round(RoundSummary(number, 0, math.nan))
    stages = {name: value for name, value in method.global_state.items() if "proxies" not in name}
    reference = model.build()
    reference.load_state_dict(stages)
    wanted = progressive.growing_logits(reference, method.global_state, block, inputs)
    (task,) = method.tasks()
    loss = task.loss(loaded(method, task, context()), inputs, targets)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(wanted, targets))
    reference.eval().load_state_dict(stages)  # the statistics have moved
    tested = progressive.growing_logits(reference, method.global_state, block, inputs)
    torch.testing.assert_close(shown(method).eval()(inputs), tested)


def test_a_block_freezes_when_its_perturbation_is_level_and_leaves_its_rounds_over(make):
    # Three rounds there, three back, and then in one direction: the perturbation is level only in the end.
    def change(value, number):
        return value + (-1 if 3 < number <= 6 else 1)

    method = make("smartfreeze", rounds=60, **EAGER)
    history = [method.global_state[WATCHED].tolist()]
    for number in range(1, 16):
        history.append([change(value, number) for value in history[-1]])
    values = [progressive.movement(history[end - 3 : end + 1]) for end in range(3, 16)]
    freeze = 2 + progressive.first_freeze(values, window=4, evaluations=2, threshold=0.1)
    found, figures = block_of_each_round(method, change)
    assert 3 + 4 + 2 - 2 < freeze < 15  # later than the rule can speak, and earlier than the equal share ends
    # The others do not move at all, which is level from the start.
    assert found == {"grow 1/4": freeze, "grow 2/4": 7, "grow 3/4": 7, "grow 4/4": 60 - freeze - 14}
    assert [row["effective_movement"] for row in figures[2:freeze]] == pytest.approx(values[: freeze - 2])
    assert [row["would_freeze"] for row in figures[6:freeze]] == [0.0] * (freeze - 7) + [1.0]


def test_a_block_that_does_not_converge_gets_an_equal_share(make):
    assert list(block_of_each_round(make("smartfreeze", rounds=30))[0].values()) == [8, 8, 7, 7]


def test_no_block_gets_less_than_its_least_rounds(make):
    found, _ = block_of_each_round(make("smartfreeze", rounds=60, min_rounds=9, **EAGER))
    assert list(found.values()) == [9, 9, 9, 33]
    assert make("smartfreeze", rounds=36, min_rounds=9).phase == "grow 1/4"
    with pytest.raises(InputError, match=r"cannot train resnet18 in 35 rounds: give it at least 36$"):
        make("smartfreeze", rounds=35, min_rounds=9)


def test_what_is_kept_between_rounds_is_named_as_ever(make):
    kept = make("smartfreeze", rounds=30).state_dict()
    assert list(kept) == ["global_state", "position", "spent", "left_over", "perturbation"]
    assert list(kept["perturbation"]) == ["values", "weights"]


def test_frozen_blocks_may_keep_their_statistics(make, train):
    for mode, moves in (("train", True), ("eval", False)):
        method = make("smartfreeze", rounds=4, frozen_batchnorm=mode)
        method.finish_round(RoundSummary(1, 0, math.nan))
        update = train(method, method.tasks()[0])
        assert ("stages.0.0.bn1.running_mean" in update.state) is moves
        assert WATCHED not in update.state
