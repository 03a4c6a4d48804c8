"""A zeroth-order step from its definition, in plain NumPy."""

import numpy as np


def zeroth_order_step(loss, weights, directions, distance, rate, central):
    """Return the weights after a step, and by how much the loss changed along each direction.

    Parameters
    ----------
    loss
        Function of a list of arrays.
    weights
        List of arrays.
    directions
        For each direction, a list of arrays like the weights.
    """

    def moved(direction, by):
        return [weight + by * along for weight, along in zip(weights, direction, strict=True)]

    changes = []
    for direction in directions:
        there = loss(moved(direction, distance))
        back, length = (loss(moved(direction, -distance)), 2 * distance) if central else (loss(weights), distance)
        changes.append((there - back) / length)
    estimate = [
        np.mean([change * direction[place] for change, direction in zip(changes, directions, strict=True)], axis=0)
        for place in range(len(weights))
    ]
    return [weight - rate * slope for weight, slope in zip(weights, estimate, strict=True)], changes
