"""The mean over owners, one element at a time."""

import itertools

import numpy as np


def naive_owner_mean(before, uploads):
    """Mean of one tensor over its owners.

    Parameters
    ----------
    before
        The server's array.
    uploads
        Pairs of an array and its global indices, one list per dimension.
    """
    after = before.copy()
    holders = {}
    for values, indices in uploads:
        for position in itertools.product(*(range(size) for size in values.shape)):
            place = tuple(index[step] for index, step in zip(indices, position, strict=True))
            holders.setdefault(place, []).append(float(values[position]))
    for place, held in holders.items():
        after[place] = np.float32(sum(held) / len(held))
    return after
