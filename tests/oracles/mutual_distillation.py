"""DepthFL's local loss from its definition, in plain NumPy float64."""

import numpy as np


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def depthfl_loss(exits, targets, weight):
    """Sum of cross-entropies, plus weight times the mean KL of each exit from all others, summed."""
    probabilities = [softmax(logits) for logits in exits]
    rows = np.arange(len(targets))
    total = sum(-np.log(p[rows, targets]).mean() for p in probabilities)
    for i, own in enumerate(probabilities):
        others = [other for j, other in enumerate(probabilities) if j != i]
        if others:
            total += weight * np.mean([(t * np.log(t / own)).sum(axis=1).mean() for t in others])
    return total
