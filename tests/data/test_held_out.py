"""What is held out: of every class the same share, the same for all, and on no device."""

import numpy as np
import pytest
import torch

from profl.bench.data import load_dataset
from profl.bench.data.held_out import held_out, hold_out
from profl.bench.errors import InputError


def test_every_class_gives_the_same_share():
    targets = np.repeat([0, 1, 2], [100, 50, 10])
    mask = held_out(targets, 0.2, seed=0)
    assert [int(mask[targets == label].sum()) for label in (0, 1, 2)] == [20, 10, 2]
    assert np.array_equal(mask, held_out(targets, 0.2, seed=0))
    assert not np.array_equal(mask, held_out(targets, 0.2, seed=1))
    assert not held_out(targets, 0, seed=0).any()


def test_the_two_parts_are_the_training_data_and_the_test_set_is_gone():
    whole = load_dataset("digits")
    part = hold_out(whole, 0.25, seed=3)
    mask = torch.from_numpy(held_out(whole.train_targets.numpy(), 0.25, seed=3))
    assert torch.equal(part.test_inputs, whole.train_inputs[mask])
    assert torch.equal(part.test_targets, whole.train_targets[mask])
    assert torch.equal(part.train_inputs, whole.train_inputs[~mask])
    assert len(part.train_targets) + len(part.test_targets) == len(whole.train_targets)
    assert hold_out(whole, 0, seed=3) is whole


@pytest.mark.parametrize(("share", "taken"), [(0.01, 0), (0.99, 10)])
def test_a_share_that_leaves_a_side_empty_is_refused(share: float, taken: int):
    with pytest.raises(
        InputError, match=f"held_out_share = {share} takes {taken} of the 10 training examples of class 7"
    ):
        held_out(np.full(10, 7), share, seed=0)
