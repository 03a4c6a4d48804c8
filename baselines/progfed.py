"""ProgFed: the network grows stage by stage at fixed rounds, and all of what is there trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from profl.baselines.depth import MeanLogits, cut, plain_exit, stage_count
from profl.bench.aggregation import Update
from profl.bench.errors import InputError
from profl.bench.method import LocalContext, Method, Task, TestedNetwork
from profl.bench.models import ModelSpec
from profl.bench.randomness import initialised
from profl.blocks import changed_state
from profl.steps import Step, begun

PUBLISHED_ROUNDS, PUBLISHED_WARM_UP_ROUNDS = 3000, 25


class ProgFed(Method):
    """Wang, Stich, He and Fritz: *ProgFed*, ICML 2022; details as in their repository ``hui-po-wang/ProgFed``.

    The same cut as ProFL's and the same way from front to back, but nothing is ever frozen: at step t a device trains
    the stem, the first t stages and an exit of that step's own, a global average and a linear layer [code,
    ``models/resnet.py``]. So it is the control that shows what freezing saves. Of T rounds with S stages every step
    but the last takes T / (2 S) [code: 375 of 3000 with four stages, 250 of 1500 with three], and the last, which
    trains the full model, all others.

    A new stage is warmed up: it and its exit train for some rounds alone, behind the stages before it [code]. There a
    device uploads what trains, and the running statistics of the rest; at every other time all that it holds. The
    server takes the plain mean [code]. The network that is tested is that of the step, with its exit alone.
    """

    kind: ClassVar[str] = "progressive"
    shrinks: ClassVar[str] = "depth, for all devices alike, in the early rounds"
    source: ClassVar[str] = "Wang et al., ProgFed, ICML 2022; github.com/hui-po-wang/ProgFed"
    deviations = (
        "The networks have BatchNorm; the published ResNets have GroupNorm.",
        "Rounds of warming up are a share of all rounds and count among them; published are 25 beside 3000.",
        "While a stage is warmed up, those before it run without gradients; published code computes and drops them.",
        "Where VGG is cut is our choice.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of ProgFed.

        Parameters
        ----------
        warm_up_rounds
            For how many rounds a new stage and its exit train alone. Published are 25 at 3000 rounds [code]; None keeps
            that share of this run's rounds, at least one [default]. 0 leaves warming up out, as the published
            configurations without it do [code].
        """

        warm_up_rounds: int | None = None

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._stages = stage_count(model)
        self._steps = schedule(model, rounds, options.warm_up_rounds)
        depths = range(1, self._stages + 1)
        with initialised(seed, "model"):
            self.global_state = cut(model, self._stages, depths, plain_exit).state_dict()

    def all_tasks(self) -> Sequence[Task]:
        return [step.task for step in self._steps]

    def tasks(self) -> Sequence[StageTask]:
        return [begun(self._steps, self.finished_rounds)[-1].task]

    @property
    def phase(self) -> str:
        return f"{self.tasks()[0].key}/{self._stages}"

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [
            TestedNetwork(f"stage {stage}", partial(cut, self.model, stage, [stage], plain_exit, MeanLogits))
            for stage in range(self.tasks()[0].stage, 0, -1)
        ]


@dataclass(frozen=True)
class StageTask(Task):
    """Train the stem, the first stages and the exit behind them.

    Parameters
    ----------
    model
        The full network.
    stage
        The last stage that is there, from 1.
    warming_up
        Whether that stage and its exit train alone.
    """

    model: ModelSpec
    stage: int
    warming_up: bool = False

    @property
    def key(self) -> str:
        return f"{'warm up' if self.warming_up else 'grow'} {self.stage}"

    def build(self) -> nn.Module:
        module = cut(self.model, self.stage, [self.stage], plain_exit)
        if self.warming_up:
            module.stem.requires_grad_(False)
            module.stages[:-1].requires_grad_(False)
        return module

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        (logits,) = module(inputs)
        return functional.cross_entropy(logits, targets)

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        return Update(changed_state(module), local.examples)


def schedule(model: ModelSpec, rounds: int, warm_up_rounds: int | None) -> list[Step[StageTask]]:
    """Return the steps of a run in their order; their rounds sum to ``rounds``.

    Raises
    ------
    InputError
        If the rounds of warming up are negative, or the rounds do not suffice; the message names the least number.
    """
    stages = stage_count(model)
    if warm_up_rounds is None:
        warm_up_rounds = max(1, round(rounds * PUBLISHED_WARM_UP_ROUNDS / PUBLISHED_ROUNDS))
    if warm_up_rounds < 0:
        raise InputError(f"warm_up_rounds must be at least 0, not {warm_up_rounds}: 0 leaves warming up out")
    growing = rounds - (stages - 1) * warm_up_rounds
    if growing < stages:
        least = rounds - growing + stages
        without = "warming up out (--option progfed.warm_up_rounds=0)"
        remedy = f", or leave {without}" if warm_up_rounds and rounds >= stages else ""
        raise InputError(f"progfed cannot train {model.name} in {rounds} rounds: give it at least {least}{remedy}")
    early = max(1, growing // (2 * stages))
    steps = []
    for stage in range(1, stages + 1):
        if stage > 1 and warm_up_rounds:
            steps.append(Step(StageTask(model, stage, warming_up=True), warm_up_rounds))
        steps.append(Step(StageTask(model, stage), early if stage < stages else growing - (stages - 1) * early))
    return steps
