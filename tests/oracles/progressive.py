"""ProFL and its progressive rivals restated: published parameters, and the formulas written out the long way."""

from itertools import pairwise

import numpy as np
from torch import nn
from torch.nn import functional

STEM = 1_856
STAGES = {
    "resnet18": (147_968, 525_568, 2_099_712, 8_393_728),
    "resnet34": (221_952, 1_116_416, 6_822_400, 13_114_368),
}
BASIC_LAYERS = {1: 73_728, 2: 294_912, 3: 1_179_648}  # by the index of the stage that is replaced
TRAINABLE = (1_703_242, 2_005_258, 3_284_490, 8_398_858)  # resnet18, 10 classes, growing steps 1 to 4
FULL = 11_173_962
PROGFED = (150_474, 676_682, 2_777_674, FULL)  # resnet18, 10 classes, stages 1 to 4 with their exits


def movement(history):
    """Effective movement of ``history``, a list of equally long lists of numbers, one list a round."""
    net = sum(abs(end - start) for start, end in zip(history[0], history[-1], strict=True))
    travelled = 0.0
    for before, after in pairwise(history):
        travelled += sum(abs(new - old) for old, new in zip(before, after, strict=True))
    return net / travelled if travelled else 0.0


def first_freeze(values, window, evaluations, threshold):
    """After how many values the block freezes, or None, by a counter of calm rounds."""
    calm = 0
    for seen in range(window, len(values) + 1):
        fitted = np.polyfit(np.linspace(0, 1, window), values[seen - window : seen], 1)[0]
        calm = calm + 1 if abs(fitted) < threshold else 0
        if calm == evaluations:
            return seen
    return None


def growing_logits(model: nn.Module, state, block, inputs):
    """Logits of growing step ``block`` of a ResNet: plain convolutions behind the model's real stages."""
    features = model.stem(inputs)
    for stage in model.stages[:block]:
        features = stage(features)
    for stage in range(block, len(model.stages)):
        features = functional.conv2d(features, state[f"proxies.{stage}.weight"], stride=2, padding=1)
    return functional.linear(features.mean((2, 3)), model.head[-1].weight, model.head[-1].bias)


def progfed_rounds(epochs, cycle, stages, warm_up):
    """Stage, and whether it is being warmed up, of every round, by the published loop over epochs."""
    rounds, stage = [], 1
    for epoch in range(1, epochs + 1):
        if epoch == stage * cycle + 1 and stage < stages:
            stage += 1
            rounds += [(stage, True)] * warm_up
        rounds.append((stage, False))
    return rounds


def progfed_logits(model: nn.Module, state, stage, inputs):
    """Logits of ProgFed's step ``stage``: the first stages of a model, and that step's average and linear layer."""
    features = model.stem(inputs)
    for part in model.stages[:stage]:
        features = part(features)
    return functional.linear(features.mean((2, 3)), state[f"exits.{stage}.2.weight"], state[f"exits.{stage}.2.bias"])


def slt_switches(rounds, width, trained):
    """After which round each step of SLT ends, by the published formula; the first is the narrow network's."""
    beginning = int(width * rounds)
    ends = np.cumsum(np.array(trained) / max(trained))
    return [beginning, *(beginning + int(end) for end in ends / ends[-1] * (rounds - beginning))]
