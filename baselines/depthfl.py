"""DepthFL: every device trains as many of the first stages as it can hold, with an exit behind each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from profl.baselines.depth import MeanLogits, cut, stage_count
from profl.bench.errors import InputError
from profl.bench.method import Method, Task, TestedNetwork
from profl.bench.models import ModelSpec, global_average_head, initialise_convolutions
from profl.bench.randomness import initialised


class DepthFL(Method):
    """Kim et al.: *DepthFL*, ICLR 2023; details as in Flower's baseline ``depthfl`` by its author.

    A device of depth d trains the stem, the first d stages and their d exits. The exits also learn from each
    other (mutual distillation). The server takes each tensor's plain mean over the devices that hold it. The
    global model is the mean of the logits of all exits that any device has trained so far (the harness's rule for
    all; the paper always has devices for every exit).

    Optimizer and learning rate are the recipe's, as for every method; the decaying learning rate and the
    FedDyn term of Flower's baseline are left out.
    """

    kind = "depth"
    shrinks = "stages, the first ones"
    source = "Kim et al., ICLR 2023; adap/flower, baselines/depthfl"
    deviations = (
        "FedDyn's term in the local loss and on the server is left out.",
        "The distillation's weight rises over 30 % of the rounds; published are 300 rounds of 1000.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of DepthFL.

        Parameters
        ----------
        ramp_rounds
            Rounds until the distillation has its full weight. The published baseline takes 300 of its 1000
            rounds; None keeps that share, 30 % of this run's rounds (our choice).
        tested_exit
            Test the exit of this depth alone; None tests the mean, as in the paper.
        """

        ramp_rounds: int | None = None
        tested_exit: int | None = None

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._depths = range(1, stage_count(model) + 1)
        if options.tested_exit is not None and options.tested_exit not in self._depths:
            raise InputError(f"tested_exit must be from 1 to {len(self._depths)}, not {options.tested_exit}")
        if options.ramp_rounds is not None and options.ramp_rounds < 1:
            raise InputError(f"ramp_rounds must be at least 1, not {options.ramp_rounds}")
        self._ramp_rounds = options.ramp_rounds or max(1, round(0.3 * rounds))
        with initialised(seed, "model"):
            self.global_state = cut(model, self._depths[-1], self._depths, gated_exit).state_dict()

    def all_tasks(self) -> Sequence[Task]:
        return self.tasks()

    def tasks(self) -> Sequence[Task]:
        weight = distillation_weight(self.finished_rounds, self._ramp_rounds)
        return [ExitsTask(self.model, depth, weight) for depth in reversed(self._depths)]

    def tested_networks(self) -> Sequence[TestedNetwork]:
        if exit := self.options.tested_exit:
            return [TestedNetwork(f"exit {exit}", partial(cut, self.model, exit, [exit], gated_exit, MeanLogits))]
        return [
            TestedNetwork(
                f"depth {depth}", partial(cut, self.model, depth, self._depths[:depth], gated_exit, MeanLogits)
            )
            for depth in reversed(self._depths)
        ]


def distillation_weight(finished_rounds: int, ramp_rounds: int) -> float:
    """Return the weight of the mutual distillation: exp(-5) in the first round, 1 after the ramp."""
    missing = 1 - min(finished_rounds, ramp_rounds) / ramp_rounds
    return math.exp(-5 * missing**2)


@dataclass(frozen=True)
class ExitsTask(Task):
    """Train the stem, the first ``depth`` stages and all exits behind them.

    Parameters
    ----------
    model
        The full network.
    depth
        Number of stages.
    distillation
        Weight of the mutual distillation in this round; changes no tensor and so no footprint.
    """

    model: ModelSpec
    depth: int
    distillation: float

    @property
    def key(self) -> str:
        return f"depth {self.depth}"

    def build(self) -> nn.Module:
        return cut(self.model, self.depth, range(1, self.depth + 1), gated_exit)

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over exits of cross-entropy and weighted mean divergence from the other exits."""
        exits = module(inputs)
        losses = [functional.cross_entropy(logits, targets) for logits in exits]
        for pupil in exits:
            for teacher in exits:
                if teacher is not pupil:
                    losses.append(self.distillation * divergence(pupil, teacher) / (len(exits) - 1))
        return torch.stack(losses).sum()


def divergence(pupil: Tensor, teacher: Tensor) -> Tensor:
    """Return the batch mean of KL(teacher || pupil) of two exits' logits; the teacher is constant."""
    return functional.kl_div(
        pupil.log_softmax(dim=1), teacher.detach().log_softmax(dim=1), reduction="batchmean", log_target=True
    )


def gated_exit(channels: Sequence[int], classes: int) -> nn.Module:
    """Return an attention gate, a separable convolution for every later stage, and a linear layer.

    Parameters
    ----------
    channels
        Channels of this stage and of all later ones.
    classes
        Number of classes.
    """
    stand_ins = [separable(channels[i], channels[i + 1]) for i in range(len(channels) - 1)]
    classifier = nn.Sequential(AttentionGate(channels[0]), *stand_ins, global_average_head(channels[-1], classes))
    initialise_convolutions(classifier)
    return classifier


class AttentionGate(nn.Module):
    """Weigh every feature by a number in (0, 1) that is computed from the features at half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(separable(channels, channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, (batch, channels, height, width)."""
        gate = functional.interpolate(self.gate(features), size=features.shape[-2:], mode="bilinear")
        return features * gate.sigmoid()


def separable(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two depthwise-separable 3x3 convolutions, the first of stride 2: halves height and width."""
    return nn.Sequential(
        *_separable_layer(in_channels, in_channels, stride=2),
        *_separable_layer(in_channels, out_channels, stride=1),
    )


def _separable_layer(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
