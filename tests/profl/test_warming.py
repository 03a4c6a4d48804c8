"""What warming up trains, on what, and that the block then does what its basic layer did."""

import pytest
import torch
from torch.nn import functional

from profl.blocks import BlockModel
from profl.method import ProFL
from profl.options import ProFLOptions
from profl.warming import WarmUpTask


@pytest.mark.parametrize("block", [2, 3])
def test_student_and_teacher_are_parts_of_the_networks_before_and_after(tiny, block, batch, local):
    state = ProFL(tiny, rounds=30, seed=0, options=ProFLOptions()).global_state
    task = WarmUpTask(tiny, block)
    module = task.build()
    task.load(module, state, local)
    assert {name.split(".")[0] for name in module.state_dict()} == {"stem", "stages", "proxies"}
    assert list(module.proxies) == [str(block - 1)]
    inputs, targets = batch()
    student, teacher = module(inputs)
    assert student.requires_grad
    assert not teacher.requires_grad

    def logits(features, blocks):
        network = BlockModel(tiny, blocks, frozen=0)
        network.load_state_dict({name: state[name] for name in network.state_dict()})
        for stage, proxy in network.proxies.items():
            features = proxy(features) if int(stage) >= block else features
        return network.head(features), network(inputs)

    for features, blocks in [(teacher, block - 1), (student, block)]:
        torch.testing.assert_close(*logits(features, blocks))
    expected = ((student - teacher) ** 2).sum() / student.numel()
    torch.testing.assert_close(task.loss(module, inputs, targets), expected)
    torch.testing.assert_close(task.loss(module, inputs, 3 - targets), expected)


def test_a_warm_block_does_what_its_basic_layer_did(tiny, batch, train):
    state = ProFL(tiny, rounds=30, seed=0, options=ProFLOptions(stand_in="normalised")).global_state
    task = WarmUpTask(tiny, 2, stand_in="normalised")
    inputs, targets = batch()
    losses = []
    for steps in (0, 100):
        _, module = train(task, state, inputs, targets, steps=steps)
        losses.append(functional.mse_loss(*module(inputs)).item())
    assert losses[1] < 0.1 * losses[0]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_statistics_of_frozen_blocks_move_or_not(tiny, mode, batch, train):
    state = ProFL(tiny, rounds=30, seed=0, options=ProFLOptions()).global_state
    _, module = train(WarmUpTask(tiny, 2, mode), state, *batch())
    moved = not torch.equal(module.state_dict()["stem.1.running_mean"], state["stem.1.running_mean"])
    assert moved == (mode == "train")
