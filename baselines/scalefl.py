"""ScaleFL: a weaker device trains fewer stages, and fewer channels of them, with an exit behind every stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from profl.baselines.depth import MeanLogits, cut, stage_count
from profl.baselines.width import load_leading, parse_rates
from profl.bench.errors import InputError
from profl.bench.method import LocalContext, Method, Task, TestedNetwork
from profl.bench.models import ModelSpec, bare_convolution, global_average_head
from profl.bench.models.normalisation import normalise
from profl.bench.randomness import initialised

TEMPERATURE = 3
"""Of the distillation's softmax [code]."""


class ScaleFL(Method):
    """Ilhan, Su and Liu: *ScaleFL*, CVPR 2023; details as in their repository ``git-disl/scale-fl`` [code].

    A device of level d trains the stem, the first d stages and the d exits behind them, all of them narrowed to the
    leading channels at the level's rate; it uploads all that it trains. An exit is three 3x3 convolutions with
    BatchNorm and ReLU, a global average and a linear layer [code]; that of the last stage is the network's head. Its
    loss is the mean over exits, exit i weighted by i [code], of the cross-entropy and, for all but the deepest, a
    divergence from the deepest exit it has. The server takes each element's plain mean over the devices that hold it;
    an element that nobody holds keeps its value [code].

    BatchNorm is static [code]: training normalises by the batch and keeps no running statistics, and none are sent.

    The network that is tested is that of the highest level that any device has trained so far, by its deepest exit
    alone [code] (the harness's rule for all; the paper always has devices of every level).
    """

    kind: ClassVar[str] = "depth"
    shrinks: ClassVar[str] = "the last stages, and the channels of those that stay"
    source: ClassVar[str] = "Ilhan, Su and Liu, CVPR 2023; git-disl/scale-fl"
    keeps_batchnorm_statistics = False

    deviations = (
        "An exit stands behind every stage; published are places in the last half of the network.",
        "The rates are those published for ResNet110, whatever the network, their channels rounded up and not down.",
        "The Scaler is left out: BatchNorm behind every convolution normalises it away.",
        "Distillation weighs what the published text runs take; the published commands for pictures leave it out.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of ScaleFL.

        Parameters
        ----------
        rates
            Share of the channels at every level, the shallowest first [code, for ResNet110]. Of a network with fewer
            stages the last ones count, and one with more has the first for all its further shallow levels [default].
        distillation
            Weight of the divergence from the deepest exit: 0.05 as in the published runs on texts [code]. The
            published default is 0.
        distillation_start
            Share of all rounds that go by before the distillation begins [code].
        """

        rates: tuple[str | float, ...] = ("0.7", "0.7", "0.75", "1")
        distillation: float = 0.05
        distillation_start: float = 0.25

        def __post_init__(self) -> None:
            if not self.rates:
                raise InputError("rates must have at least one share of the channels, such as 0.7")
            if not 0 <= self.distillation < math.inf:
                raise InputError(f"distillation must be at least 0, not {self.distillation}: 0 turns it off")
            if not 0 <= self.distillation_start <= 1:
                raise InputError(f"distillation_start must be a share from 0 to 1, not {self.distillation_start}")

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._levels = level_rates(options.rates, stage_count(model))
        with initialised(seed, "model"):
            self.global_state = cut(model, len(self._levels), self._levels, convolutional_exit).state_dict()

    def all_tasks(self) -> Sequence[Task]:
        return self.tasks()

    def tasks(self) -> Sequence[Task]:
        begun = self.finished_rounds > self.options.distillation_start * self.rounds
        weight = self.options.distillation if begun else 0.0
        return [LevelTask(self.model.at_rate(rate), depth, weight) for depth, rate in reversed(self._levels.items())]

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [
            TestedNetwork(
                f"depth {depth} width {rate}",
                partial(cut, self.model.at_rate(rate), depth, [depth], convolutional_exit, MeanLogits),
            )
            for depth, rate in reversed(self._levels.items())
        ]


def level_rates(rates: Sequence[str | float], stages: int) -> dict[int, Fraction]:
    """Return the rate of every level by its depth, 1 to ``stages``; the last rate is that of the whole depth.

    Raises
    ------
    InputError
        If a rate is not a number in (0, 1].
    """
    exact = [parse_rates([rate])[0] for rate in rates]
    exact = [exact[0]] * (stages - len(exact)) + exact[-stages:]
    return dict(enumerate(exact, start=1))


@dataclass(frozen=True)
class LevelTask(Task):
    """Train the stem, the first ``depth`` stages and all exits behind them, with static BatchNorm.

    Parameters
    ----------
    model
        The network at this level's rate.
    depth
        Number of stages.
    distillation
        Weight of the divergence from the deepest exit in this round; changes no tensor and so no footprint.
    """

    model: ModelSpec
    depth: int
    distillation: float

    @property
    def key(self) -> str:
        return f"depth {self.depth} width {self.model.rate}"

    def build(self) -> nn.Module:
        module = cut(self.model, self.depth, range(1, self.depth + 1), convolutional_exit)
        normalise(module, "static")
        return module

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        load_leading(module, global_state)

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        exits = module(inputs)
        losses = [functional.cross_entropy(logits, targets) for logits in exits]
        for number, logits in enumerate(exits[:-1]):
            losses[number] = losses[number] + self.distillation * self_distillation(logits, exits[-1])
        weights = range(1, len(exits) + 1)
        return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum() / sum(weights)


def self_distillation(pupil: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence of an exit from the deepest one, at the temperature and times its square [code].

    It is the mean over batch and classes, and gradients reach the teacher too, both as in the published code.
    """
    divergence = functional.kl_div(
        (pupil / TEMPERATURE).log_softmax(dim=1),
        (teacher / TEMPERATURE).log_softmax(dim=1),
        reduction="none",
        log_target=True,
    )
    return divergence.mean() * TEMPERATURE**2


def convolutional_exit(channels: Sequence[int], classes: int) -> nn.Module:
    """Return three 3x3 convolutions of the stage's own channels, ``channels[0]``, and a linear layer [code]."""
    width = channels[0]
    layers = [
        layer
        for _ in range(3)
        for layer in (bare_convolution(width, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    ]
    return nn.Sequential(*layers, global_average_head(width, classes))
