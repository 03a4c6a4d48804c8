"""FIARSE's mask, gradient and mean from their definitions, in NumPy."""

import numpy as np


def largest(arrays, share):
    """Boolean arrays: the ``share`` of all elements together that are largest in magnitude (no ties)."""
    everything = np.concatenate([np.abs(array).ravel() for array in arrays])
    kept = set(np.argsort(-everything)[: int(len(everything) * share)].tolist())
    flat = np.array([place in kept for place in range(len(everything))])
    sizes = np.cumsum([array.size for array in arrays])[:-1]
    return [part.reshape(array.shape) for part, array in zip(np.split(flat, sizes), arrays, strict=True)]


def gradient(weight, threshold, upstream):
    """Gradient of ``weight * mask(|weight|)``, by the product rule: that of the mask is 2t / (|w| + t)^2 on |w|."""
    result = np.zeros_like(weight)
    for place, w in np.ndenumerate(weight):
        if abs(w) >= threshold:
            through_mask = w * 2 * threshold / (abs(w) + threshold) ** 2 * np.sign(w)
            result[place] = upstream[place] * (1 + through_mask)
    return result


def mean_of_holders(before, uploads):
    """Elementwise mean of ``uploads``, pairs of values and boolean masks; what nobody holds stays."""
    after = before.copy()
    for place in np.ndindex(before.shape):
        held = [float(values[place]) for values, mask in uploads if mask[place]]
        if held:
            after[place] = np.float32(sum(held) / len(held))
    return after
