"""ProFL: which block trains in which round, and when the next one takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from profl.bench.method import Method, RoundSummary, Task, TestedNetwork, Update
from profl.bench.models import ModelSpec
from profl.blocks import BlockModel, BlockTask, block_parameters, initial_block_state
from profl.freezing import FreezingRule, MovementLog
from profl.options import ProFLOptions
from profl.schedule import schedule
from profl.shrinking import TEACHER_HEAD, MapTask
from profl.steps import Course, Step


class ProFL(Method):
    """Progressive training: every device trains the one active block, the blocks before it are frozen.

    Shrinking trains each block with the ones in front at their random initial values, and maps it into the
    basic layer that replaces it. Growing step 1 then takes over basic layers and head; stem and first block
    start from random initial values [code]. At later growing steps the active block starts from the weights
    that shrinking gave it [inferred].

    Rounds are spent as the steps say; what a converged block leaves over goes to the steps after it, and
    the last step uses all that is left. A round in which no device could train counts like any other, so
    that a step that fits no device ends too and the schedule never hangs; it adds nothing to effective
    movement.

    The norm of the gradient that a recipe may ask for is that of the step's own loss, with respect to all that
    the step trains. While a block grows or is shrunk, this is the cross-entropy, by the block, the basic layers
    behind it and the head; that it falls while a block grows is what the paper proves. While one is mapped or
    warmed up, it is the mean squared error, in no way comparable. The round's phase tells them apart.

    Raises
    ------
    InputError
        If ``rounds`` do not suffice for the schedule.
    """

    kind = "progressive"
    shrinks = "blocks (one trains, the others are frozen or replaced)"
    source = "Wu, Li and Xu, KDD 2025 (arXiv 2404.13349), and its published code"
    deviations = (
        "How the middle blocks are shrunk, and that growing goes on from their weights, is inferred.",
        "The rounds of shrinking and mapping are shares of the budget; the published numbers are unknown.",
        "What the freezing rule's window, count and slope mean is inferred; an equal share of rounds ends a step too.",
        "Basic layers of other networks than ResNets, and where those are cut, are our choice.",
    )

    Options = ProFLOptions
    options: ProFLOptions

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: ProFLOptions) -> None:
        super().__init__(model, rounds, seed, options)
        self.global_state = initial_block_state(model, seed, options.stand_in)
        self._blocks = block_parameters(model)
        rule = FreezingRule(options.slope_window, options.slope_evaluations, options.slope_threshold)
        self.course = Course(schedule(model, rounds, options), rule, options.min_rounds, self._movement_log)
        self._enter_step()

    @property
    def steps(self) -> Sequence[Step[BlockTask]]:
        """The whole schedule."""
        return self.course.steps

    @property
    def step(self) -> Step[BlockTask]:
        """The step that the coming round belongs to."""
        return self.course.step

    @property
    def phase(self) -> str:
        return f"{self.step.task.kind} {self.step.task.block}/{len(self._blocks)}"

    @property
    def movements(self) -> Sequence[float]:
        """Effective movement of the active block in this step, from its H-th round with participants on.

        There is none while a block is mapped: a basic layer trains then.
        """
        return self.course.movement.values

    def all_tasks(self) -> Sequence[Task]:
        return [step.task for step in self.steps]

    def tasks(self) -> Sequence[Task]:
        return [self.step.task]

    def tested_networks(self) -> Sequence[TestedNetwork]:
        """Return the network as far as it is (real blocks, basic layers for the others, head), then those before it."""
        build = partial(BlockModel, self.model, frozen=0, stand_in=self.options.stand_in)
        return [
            TestedNetwork(f"{blocks} of {len(self._blocks)} blocks", partial(build, blocks=blocks))
            for blocks in range(self.step.task.real_blocks, 0, -1)
        ]

    def aggregate(self, updates: Sequence[Update]) -> None:
        super().aggregate(updates)
        if not isinstance(self.step.task, MapTask):  # which trains a basic layer, and no block
            self.course.movement.observe(self.global_state)

    def diagnostics(self) -> Mapping[str, float]:
        """Return the active block's effective movement, its slope, and whether the freezing rule holds (1 or 0).

        The rule is asked whatever the pace. Unknown in the first rounds of a step, and while a block is mapped.
        """
        return self.course.figures

    def finish_round(self, summary: RoundSummary) -> None:
        if self.course.finish_round():
            self._enter_step()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self.course.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.course.load_state_dict(state)

    def _enter_step(self) -> None:
        self.course.movement.observe(self.global_state)
        for name in [name for name in self.global_state if name.startswith(TEACHER_HEAD)]:
            del self.global_state[name]
        task = self.step.task
        if isinstance(task, MapTask) and task.block == len(self._blocks):  # the student trains the head
            self.global_state |= {
                name.replace("head", TEACHER_HEAD, 1): value.clone()
                for name, value in self.global_state.items()
                if name.startswith("head.")
            }

    def _movement_log(self, task: BlockTask) -> MovementLog:
        options = self.options
        return MovementLog(
            self._blocks[task.block - 1],
            options.movement_rounds,
            options.movement_scalars,
            self.seed,
            "effective movement",
        )
