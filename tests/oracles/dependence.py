"""Normalised HSIC, by its definition: traces of Gram matrices, centred on both sides."""

import numpy as np


def gram(vectors, sigma):
    """Gaussian kernel of every pair of rows, whose squared distance is taken per dimension."""
    vectors = np.asarray(vectors, dtype=float)
    size, dimensions = vectors.shape
    found = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            squared = sum((a - b) ** 2 for a, b in zip(vectors[i], vectors[j], strict=True))
            found[i, j] = np.exp(-squared / (2 * sigma**2 * dimensions))
    return found


def hsic(first, second):
    size = len(first)
    centring = np.eye(size) - np.ones((size, size)) / size
    return np.trace(centring @ first @ centring @ second) / (size - 1) ** 2


def normalised_hsic(one, other, sigma=5.0):
    first, second = gram(one, sigma), gram(other, sigma)
    return hsic(first, second) / np.sqrt(hsic(first, first) * hsic(second, second))
