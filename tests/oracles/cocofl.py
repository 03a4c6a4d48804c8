"""CoCoFL's rounding and its mean, in plain NumPy."""

import numpy as np


def rounded(values):
    """Values on the grid whose step is 2/127 of the largest magnitude, in float64."""
    values = np.asarray(values, dtype=np.float64)
    step = 2 * np.abs(values).max() / 127
    return np.round(values / step) * step


def partial_mean(before, uploads, participants):
    """r times the mean of what was sent, and 1 - r times the server's value; r is the share that sent it."""
    share = len(uploads) / participants
    return share * np.mean(np.asarray(uploads, dtype=np.float64), axis=0) + (1 - share) * before
