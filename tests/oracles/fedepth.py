"""FeDepth's skip and the ways to cut a network, pixel by pixel and cut by cut."""

import itertools

import numpy as np


def skipped(features, stride, channels):
    """Every ``stride``-th pixel of ``features``; zeros before and behind its channels until there are enough."""
    batch, had, height, width = features.shape
    before = (channels - had) // 2
    result = np.zeros((batch, channels, -(-height // stride), -(-width // stride)), features.dtype)
    for channel, row, column in itertools.product(range(had), range(result.shape[2]), range(result.shape[3])):
        result[:, before + channel, row, column] = features[:, channel, row * stride, column * stride]
    return result


def cuts(stages):
    """Each subset of the places between stages, as lengths of the pieces."""
    for count in range(stages):
        for places in itertools.combinations(range(1, stages), count):
            edges = (0, *places, stages)
            yield tuple(edges[i + 1] - edges[i] for i in range(len(edges) - 1))


def greedy(costs, budget):
    """Lengths of segments, front to back, each as long as ``budget`` allows; None if one stage is too dear.

    A segment costs what its stages cost together.
    """
    lengths, spent = [], None
    for cost in costs:
        if cost > budget:
            return None
        if spent is None or spent + cost > budget:
            lengths.append(0)
            spent = 0
        lengths[-1] += 1
        spent += cost
    return tuple(lengths)
