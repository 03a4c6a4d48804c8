"""ScaleFL's local loss and its levels from their definitions, in plain NumPy float64."""

import numpy as np

from tests.oracles.mutual_distillation import softmax
from tests.oracles.parameter_counts import conv, linear, norm


def scalefl_loss(exits, targets, weight, temperature=3.0):
    """Mean over exits, exit i counted i times, of cross-entropy and, but for the last, KL from the last."""
    rows, total = np.arange(len(targets)), 0.0
    teacher = softmax(exits[-1] / temperature)
    for number, logits in enumerate(exits, start=1):
        loss = -np.log(softmax(logits)[rows, targets]).mean()
        if number < len(exits):
            pupil = softmax(logits / temperature)
            loss += weight * temperature**2 * np.mean(teacher * np.log(teacher / pupil))
        total += number * loss
    return total / (len(exits) * (len(exits) + 1) / 2)


def scalefl_parameters(parts, channels, classes, depth):
    """Stem and first stages of a network (``parts``), three convolutions and a linear layer behind each but the last.

    ``channels`` are those that leave the stages of the narrowed network.
    """
    total = sum(parts[: depth + 1])
    for stage in range(depth):
        width = channels[stage]
        if stage < len(channels) - 1:
            total += 3 * (conv(3, width, width) + norm(width))
        total += linear(width, classes)
    return total
