"""InclusiveFL: every device trains as many of the first stages as it can hold, with one exit behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from profl.baselines.depth import AveragingOptions, MeanLogits, MultiExit, cut, plain_exit, stage_count
from profl.bench.aggregation import Update, owner_mean
from profl.bench.method import Method, Task, TestedNetwork
from profl.bench.models import ModelSpec
from profl.bench.randomness import initialised


class InclusiveFL(Method):
    """Layer-wise averaging of models of several depths (Liu et al.: *No One Left Behind*, KDD 2022).

    A device of depth d trains the stem, the first d stages and its own exit, a global average and a linear
    layer [inferred: the paper's models are Transformers]. The server takes each tensor's mean over the devices that
    hold it, weighted by their examples [code]; exits are shared within a depth alone [code]. What nobody trains keeps
    its value, so stages that no device can hold stay random: the network that is tested is the deepest that any
    device has trained so far (the harness's rule for all; the paper always has devices for the whole model).

    Three things are left out, as `deviations` say. The last layer of every depth is private there [code], one of 4, 8
    or 12; a stage is a quarter of a network, and devices of depth 1 would share nothing but the stem. The server there
    has an AdamW for every depth, fed with one gradient of each device [code]; here all methods train locally by the
    recipe. Momentum distillation adds the mean update of deeper layers to a shallower model's last layer [paper]; it
    takes layers of one shape, and the stages of a convolutional network have different ones.
    """

    kind = "depth"
    shrinks = "stages, the first ones"
    source = "Liu et al., KDD 2022; Rachelxuan11/InclusiveFL"
    deviations = (
        "The last stage of every depth is shared with deeper models, not private.",
        "The server averages what local training gives; published is a step of AdamW for every depth.",
        "There is no momentum distillation, as stages differ in shape.",
    )

    Options = AveragingOptions

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._depths = range(1, stage_count(model) + 1)
        with initialised(seed, "model"):
            self.global_state = cut(model, self._depths[-1], self._depths, plain_exit).state_dict()

    def all_tasks(self) -> Sequence[Task]:
        return [PrefixTask(self.model, depth) for depth in reversed(self._depths)]

    def tasks(self) -> Sequence[Task]:
        return self.all_tasks()

    def aggregate(self, updates: Sequence[Update]) -> None:
        owner_mean(self.global_state, updates, by_examples=self.options.weighted_by_examples)

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [
            TestedNetwork(f"depth {depth}", partial(cut, self.model, depth, [depth], plain_exit, MeanLogits))
            for depth in reversed(self._depths)
        ]


@dataclass(frozen=True)
class PrefixTask(Task):
    """Train the stem, the first ``depth`` stages and the exit behind them."""

    model: ModelSpec
    depth: int

    @property
    def key(self) -> str:
        return f"depth {self.depth}"

    def build(self) -> MultiExit:
        return cut(self.model, self.depth, [self.depth], plain_exit)

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        (logits,) = module(inputs)
        return functional.cross_entropy(logits, targets)
