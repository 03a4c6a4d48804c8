"""SmartFreeze: blocks train front to back behind a stand-in for the rest, and freeze when they have converged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as validated

from profl.bench.errors import InputError
from profl.bench.method import Method, RoundSummary, Task, TestedNetwork, Update
from profl.bench.models import ModelSpec
from profl.blocks import BlockModel, FrozenBatchNorm, block_parameters, initial_block_state
from profl.freezing import FreezingRule, MovementLog
from profl.growing import GrowTask
from profl.options import Count, Positive, Several
from profl.steps import Course, Step, apportion


@validated(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class SmartFreezeOptions:
    """The knobs of SmartFreeze; what its authors published later, in ProFL's code, stands for what is not known here.

    Parameters
    ----------
    frozen_batchnorm
        ``"train"``: frozen blocks normalise by the batch and their running statistics move; ``"eval"``: they normalise
        by the running statistics, which do not move [inferred].
    min_rounds
        The least rounds of a block [default].
    perturbation_rounds
        Over how many rounds a block's perturbation is taken [inferred].
    perturbation_scalars
        At most how many scalars of a block it follows [inferred].
    slope_window
        Over how many perturbations the slope is fitted [inferred].
    slope_evaluations
        For how many consecutive rounds the slope must stay small [inferred].
    slope_threshold
        What the slope's absolute value must stay under, on an axis where the window has length 1 [inferred].
    """

    frozen_batchnorm: FrozenBatchNorm = "train"
    min_rounds: Count = 1
    perturbation_rounds: Several = 6
    perturbation_scalars: Count = 10_000
    slope_window: Several = 20
    slope_evaluations: Count = 15
    slope_threshold: Positive = 0.2


class SmartFreeze(Method):
    """Wu, Li, Tian, Chang, Lin, Wang and Xu: *SmartFreeze*, IWQoS 2024, arXiv 2408.09101; known here by its abstract.

    Blocks train front to back. A device trains the block whose turn it is, with an output module behind it, on top of
    the blocks before it, which are frozen; a *pace controller* freezes the block once its *perturbation* says that it
    has converged, and the next one begins [paper]. This is ProFL's growing by the same authors without the shrinking
    that gives ProFL its initial values, and with the same cut: what an ablation of ProFL and this rival need in memory
    is the same, task by task.

    The output module is one convolution for every later block, average and linear layer: of convolutions says the
    paper, which ones is [inferred] from ProFL, and so is that it goes on from step to step. The perturbation of a block
    is the length of the sum of its updates over that of the updates themselves, in 1-norms [inferred]: ProFL's
    effective movement, and recorded under that name. No block trains for longer than an equal share of the rounds
    and what others left over [default], so that the schedule ends inside the run.

    A device uploads what trains, and the running statistics of the frozen blocks; the server takes the plain mean
    [default]. The network that is tested is the blocks so far, the output module in place of the others.
    """

    kind: ClassVar[str] = "progressive"
    shrinks: ClassVar[str] = "what trains: one block at a time, on frozen ones"
    source: ClassVar[str] = "Wu et al., SmartFreeze, IWQoS 2024, arXiv 2408.09101 (abstract)"
    deviations = (
        "Only the abstract is known: output module, perturbation and freezing rule are read as ProFL's.",
        "An equal share of rounds ends a block too.",
        "The participant selector, which groups devices by data and speed, is left out: all methods draw alike.",
        "Stand-ins for VGG's blocks, and where it is cut, are our choice.",
    )

    Options = SmartFreezeOptions
    options: SmartFreezeOptions

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: SmartFreezeOptions) -> None:
        super().__init__(model, rounds, seed, options)
        self._blocks = block_parameters(model)
        least = len(self._blocks) * options.min_rounds
        if rounds < least:
            raise InputError(f"smartfreeze cannot train {model.name} in {rounds} rounds: give it at least {least}")
        shares = apportion(rounds, [1] * len(self._blocks), options.min_rounds)
        steps = [
            Step(GrowTask(model, block, options.frozen_batchnorm), share, may_end_early=True)
            for block, share in enumerate(shares, start=1)
        ]
        rule = FreezingRule(options.slope_window, options.slope_evaluations, options.slope_threshold)
        self._course = Course(steps, rule, options.min_rounds, self._perturbation)
        self.global_state = initial_block_state(model, seed)
        self._course.movement.observe(self.global_state)

    @property
    def _block(self) -> int:
        """The block whose turn it is, from 1."""
        return self._course.step.task.block

    def all_tasks(self) -> Sequence[Task]:
        return [step.task for step in self._course.steps]

    def tasks(self) -> Sequence[Task]:
        return [self._course.step.task]

    @property
    def phase(self) -> str:
        return f"grow {self._block}/{len(self._blocks)}"

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [
            TestedNetwork(
                f"{blocks} of {len(self._blocks)} blocks", partial(BlockModel, self.model, blocks=blocks, frozen=0)
            )
            for blocks in range(self._block, 0, -1)
        ]

    def aggregate(self, updates: Sequence[Update]) -> None:
        super().aggregate(updates)
        self._course.movement.observe(self.global_state)

    def diagnostics(self) -> Mapping[str, float]:
        """Return the block's perturbation, its slope, and whether the freezing rule holds (1 or 0)."""
        return self._course.figures

    def finish_round(self, summary: RoundSummary) -> None:
        if self._course.finish_round():
            self._course.movement.observe(self.global_state)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self._course.state_dict("perturbation")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._course.load_state_dict(state, "perturbation")

    def _perturbation(self, task: GrowTask) -> MovementLog:
        options = self.options
        return MovementLog(
            self._blocks[task.block - 1],
            options.perturbation_rounds,
            options.perturbation_scalars,
            self.seed,
            "block perturbation",
        )
