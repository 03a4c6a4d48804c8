"""ProFL: which block trains in which round, and when the next one takes over.

The schedule runs from the last block to the first and back: shrink T, map T, ..., shrink 2, map 2, grow 1,
..., grow T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Literal

from profl.bench.errors import InputError
from profl.bench.method import Method, RoundSummary, Task, TestedNetwork, initial_state
from profl.bench.models import ModelSpec
from profl.bench.randomness import initialised
from profl.blocks import BlockModel, BlockTask, FrozenBatchNorm, block_parameters
from profl.freezing import FreezingRule, MovementLog
from profl.growing import GrowTask
from profl.shrinking import TEACHER_HEAD, MapTask, ShrinkTask

Pace = Literal["effective_movement", "equal", "parameters"]


@dataclass(frozen=True)
class ProFLOptions:
    """The knobs of ProFL.

    Parameters
    ----------
    shrinking
        Whether model shrinking comes before growing [paper]; without it, growing starts from random values.
    shrink_share
        Share of all rounds that goes to shrinking, mappings included, in equal parts for every block
        [default]. Every block gets at least 2 rounds.
    map_share
        Share of a block's shrinking rounds that goes to its mapping, at least 1 [default].
    map_learning_rate
        Learning rate of the mapping [code].
    frozen_batchnorm
        ``"train"``: frozen blocks normalise by the batch and their running statistics move [code];
        ``"eval"``: they normalise by the running statistics, which do not move. Concerns whole frozen
        blocks, dropout included.
    pace
        What ends a growing step: ``"effective_movement"``, the freezing rule [paper], though no later than
        an equal share of the growing rounds allows [default]; ``"equal"``, that share; ``"parameters"``, a
        share in proportion to the block's parameters, the parameter-aware rival [inferred].
    min_rounds
        The least rounds of a growing step [default].
    movement_rounds
        H, over how many rounds effective movement is taken [code].
    movement_scalars
        At most how many scalars of a block effective movement follows [code].
    slope_window
        Over how many values of effective movement the slope is fitted; the number is published [code], its
        meaning is [inferred].
    slope_evaluations
        For how many consecutive rounds the slope must stay small; number [code], meaning [inferred].
    slope_threshold
        What the slope's absolute value must stay under [code], on an axis where the window has length 1
        [default].

    Notes
    -----
    The freezing rule speaks for the first time in round ``movement_rounds + slope_window + slope_evaluations
    - 2`` of a step, 39 with the published numbers. Where the equal share is smaller, it never ends a step.
    """

    shrinking: bool = True
    shrink_share: float = 0.25
    map_share: float = 0.3
    map_learning_rate: float = 1e-5
    frozen_batchnorm: FrozenBatchNorm = "train"
    pace: Pace = "effective_movement"
    min_rounds: int = 1
    movement_rounds: int = 6
    movement_scalars: int = 10_000
    slope_window: int = 20
    slope_evaluations: int = 15
    slope_threshold: float = 0.2

    def __post_init__(self) -> None:
        self._number("shrink_share", 0, 1)
        self._number("map_share", 0, 1)
        self._number("map_learning_rate", 0, inf)
        self._number("slope_threshold", 0, inf)
        self._whole("min_rounds", 1)
        self._whole("movement_rounds", 2)
        self._whole("movement_scalars", 1)
        self._whole("slope_window", 2)
        self._whole("slope_evaluations", 1)
        self._choice("shrinking", True, False)
        self._choice("frozen_batchnorm", "train", "eval")
        self._choice("pace", "effective_movement", "equal", "parameters")

    def _number(self, name: str, above: float, below: float) -> None:
        value = getattr(self, name)
        if type(value) not in (int, float) or not above < value < below:
            upper = f" and below {below}" if below < inf else ""
            raise self._refused(name, f"give a number above {above}{upper}")

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or value < least:
            raise self._refused(name, f"give a whole number of at least {least}")

    def _choice(self, name: str, *choices: bool | str) -> None:
        value = getattr(self, name)
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise self._refused(name, f"choose one of {', '.join(str(choice) for choice in choices)}")

    def _refused(self, name: str, remedy: str) -> InputError:
        return InputError(f"option {name} of profl cannot be {getattr(self, name)!r}: {remedy}")


@dataclass(frozen=True)
class Step:
    """One step of the schedule.

    Parameters
    ----------
    task
        What its devices train.
    rounds
        How many rounds it gets, beside those that earlier steps left over.
    may_end_early
        Whether the freezing rule may end it before.
    """

    task: BlockTask
    rounds: int
    may_end_early: bool = False


def apportion(rounds: int, shares: Sequence[int], least: int) -> list[int]:
    """Divide ``rounds`` in proportion to ``shares``, by largest remainders, with at least ``least`` for each.

    What is missing to ``least`` is taken from the largest parts; ``rounds`` must suffice for all.
    """
    whole = sum(shares)
    parts = [rounds * share // whole for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda part: rounds * shares[part] % whole, reverse=True)
    for part in by_remainder[: rounds - sum(parts)]:
        parts[part] += 1
    while min(parts) < least:
        parts[parts.index(max(parts))] -= 1
        parts[parts.index(min(parts))] += 1
    return parts


def schedule(model: ModelSpec, rounds: int, options: ProFLOptions) -> list[Step]:
    """Return the steps of a run in their order; their rounds sum to ``rounds``.

    Raises
    ------
    InputError
        If the rounds do not suffice for every step; the message names the least number.
    """
    parameters = [sum(block.values()) for block in block_parameters(model)]
    blocks = range(1, len(parameters) + 1)
    shrunk = blocks[:0:-1] if options.shrinking else blocks[:0]  # block 1 is never shrunk [code]
    growing_least = len(blocks) * options.min_rounds
    least = growing_least + 2 * len(shrunk)
    if rounds < least:
        remedy = ", or set its option shrinking = false" if shrunk and rounds >= growing_least else ""
        raise InputError(f"profl cannot train {model.name} in {rounds} rounds: give it at least {least}{remedy}")

    steps = []
    growing = rounds
    if shrunk:
        wanted = int(options.shrink_share * rounds / len(shrunk))
        each = min(max(2, wanted), (rounds - growing_least) // len(shrunk))
        mapping = min(max(1, round(options.map_share * each)), each - 1)
        for block in shrunk:
            steps.append(Step(ShrinkTask(model, block, options.frozen_batchnorm), each - mapping))
            steps.append(Step(MapTask(model, block, options.frozen_batchnorm, options.map_learning_rate), mapping))
        growing -= each * len(shrunk)
    shares = parameters if options.pace == "parameters" else [1] * len(blocks)
    for block, part in zip(blocks, apportion(growing, shares, options.min_rounds), strict=True):
        task = GrowTask(model, block, options.frozen_batchnorm)
        steps.append(Step(task, part, options.pace == "effective_movement"))
    return steps


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

    Raises
    ------
    InputError
        If ``rounds`` do not suffice for the schedule.
    """

    deviations = (
        "How the middle blocks are shrunk, and that growing goes on from their weights, is inferred.",
        "The rounds of shrinking and mapping are shares of the budget; the published numbers are unknown.",
        "What the freezing rule's window, count and slope mean is inferred; an equal share of rounds ends a step too.",
        "Basic layers of VGG, and where it is cut, are our choice.",
    )

    Options = ProFLOptions
    options: ProFLOptions

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: ProFLOptions) -> None:
        super().__init__(model, rounds, seed, options)
        self.steps = schedule(model, rounds, options)
        self.rule = FreezingRule(options.slope_window, options.slope_evaluations, options.slope_threshold)
        self.global_state = dict(initial_state(model, seed))
        with initialised(seed, "profl", "basic layers"):
            first = BlockModel(model, blocks=1, frozen=0).state_dict()
        self.global_state |= {name: value for name, value in first.items() if name.startswith("proxies.")}
        self._blocks = block_parameters(model)
        self._enter(0, left_over=0)

    @property
    def step(self) -> Step:
        """The step that the coming round belongs to."""
        return self.steps[self.position]

    @property
    def phase(self) -> str:
        return f"{self.step.task.kind} {self.step.task.block}/{len(self._blocks)}"

    @property
    def movements(self) -> Sequence[float]:
        """Effective movement of the active block in this step, from its H-th round with participants on."""
        return self.movement.values

    def all_tasks(self) -> Sequence[Task]:
        return [step.task for step in self.steps]

    def tasks(self) -> Sequence[Task]:
        return [self.step.task]

    def tested_networks(self) -> Sequence[TestedNetwork]:
        """Return the network as far as it is (real blocks, basic layers for the others, head), then those before it."""
        return [
            TestedNetwork(f"{blocks} of {len(self._blocks)} blocks", partial(BlockModel, self.model, blocks, frozen=0))
            for blocks in range(self.step.task.real_blocks, 0, -1)
        ]

    def finish_round(self, summary: RoundSummary) -> None:
        self.spent += 1
        if summary.participants:
            self.movement.observe(self.global_state)
        allowed = self.step.rounds + self.left_over
        converged = (
            self.step.may_end_early and self.spent >= self.options.min_rounds and self.rule.holds(self.movements)
        )
        if self.position + 1 < len(self.steps) and (converged or self.spent >= allowed):
            self._enter(self.position + 1, left_over=allowed - self.spent)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "position": self.position,
            "spent": self.spent,
            "left_over": self.left_over,
            "movement": self.movement.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.position = state["position"]
        self.spent = state["spent"]
        self.left_over = state["left_over"]
        self.movement = self._movement_log()
        self.movement.load_state_dict(state["movement"])

    def _enter(self, position: int, left_over: int) -> None:
        self.position = position
        self.spent = 0
        self.left_over = left_over
        self.movement = self._movement_log()
        self.movement.observe(self.global_state)
        for name in [name for name in self.global_state if name.startswith(TEACHER_HEAD)]:
            del self.global_state[name]
        task = self.step.task
        if isinstance(task, MapTask) and task.block == len(self._blocks):  # the student trains the head
            self.global_state |= {
                name.replace("head", TEACHER_HEAD, 1): value.clone()
                for name, value in self.global_state.items()
                if name.startswith("head.")
            }

    def _movement_log(self) -> MovementLog:
        task, options = self.step.task, self.options
        return MovementLog(
            self._blocks[task.block - 1],
            options.movement_rounds,
            options.movement_scalars,
            self.seed,
            "effective movement",
        )
