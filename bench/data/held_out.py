"""A part of the training data that no device gets: settings are tuned on it, so that the test set stays unseen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from profl.bench.data.dataset import Dataset
from profl.bench.errors import InputError
from profl.bench.randomness import numpy_generator


def held_out(targets: ArrayLike, share: float, seed: int) -> NDArray[np.bool_]:
    """Return which examples are held out: of every class the same share, rounded, drawn at random.

    Parameters
    ----------
    targets
        Class of every training example; int, shape (examples,).
    share
        In [0, 1); 0 holds nothing out.
    seed
        Names the generator: the same examples for every method and tier.

    Raises
    ------
    InputError
        If a class would have no example on one of the two sides.
    """
    labels = np.asarray(targets)
    mask = np.zeros(len(labels), bool)
    if not share:
        return mask
    draw = numpy_generator(seed, "held out")
    for label in np.unique(labels):
        examples = draw.permutation(np.flatnonzero(labels == label))
        count = round(share * len(examples))
        if not 0 < count < len(examples):
            raise InputError(
                f"held_out_share = {share:g} takes {count} of the {len(examples)} training examples of class {label}: "
                "choose a share that leaves some on both sides"
            )
        mask[examples[:count]] = True
    return mask


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Return a dataset whose test set is the held-out part of its training data, and which trains on the rest.

    All pictures stay normalised with the statistics of the whole training split. Who holds an example makes no
    difference; a user of whom all is held out is no user any more. Parameters and errors as `held_out`; a share of 0
    returns the dataset itself.
    """
    if not share:
        return dataset
    mask = torch.from_numpy(held_out(dataset.train_targets.numpy(), share, seed))
    return replace(
        dataset,
        train_inputs=dataset.train_inputs[~mask],
        train_targets=dataset.train_targets[~mask],
        test_inputs=dataset.train_inputs[mask],
        test_targets=dataset.train_targets[mask],
        users=None if dataset.users is None else dataset.users[~mask],
    )
