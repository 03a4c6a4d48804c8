"""Steps of a method, one after another: how rounds are dealt to them, and where a run stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic, TypeVar

from profl.bench.method import Task
from profl.freezing import FreezingRule, MovementLog

StepTask = TypeVar("StepTask", bound=Task)


@dataclass(frozen=True)
class Step(Generic[StepTask]):
    """One step of a schedule.

    Parameters
    ----------
    task
        What its devices train.
    rounds
        How many rounds it gets.
    may_end_early
        Whether a freezing rule may end it before. Such a step also gets the rounds that earlier ones left over.
    """

    task: StepTask
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


def begun(steps: Sequence[Step[StepTask]], finished_rounds: int) -> Sequence[Step[StepTask]]:
    """Return the steps that have begun when the round after ``finished_rounds`` comes, which belongs to their last.

    Every step gets its rounds, none ends early; the last of all has those to come too.
    """
    ends = accumulate(step.rounds for step in steps[:-1])
    return steps[: 1 + sum(end <= finished_rounds for end in ends)]


class Course(Generic[StepTask]):
    """Where a run stands in its steps, of which some end once the block that they train has converged.

    Rounds are spent as the steps say; what one leaves over goes to the steps after it, and the last uses all that is
    left.

    Parameters
    ----------
    steps
        In their order; at least one.
    rule
        When a block's movement in a step says that it has converged.
    min_rounds
        The least rounds of a step that ends by that rule.
    new_log
        Makes the log of that movement from a step's task.
    """

    def __init__(
        self,
        steps: Sequence[Step[StepTask]],
        rule: FreezingRule,
        min_rounds: int,
        new_log: Callable[[StepTask], MovementLog],
    ) -> None:
        self.steps = steps
        self.rule = rule
        self._min_rounds = min_rounds
        self._new_log = new_log
        self._enter(0, left_over=0)

    @property
    def step(self) -> Step[StepTask]:
        """The step that the coming round belongs to."""
        return self.steps[self.position]

    @property
    def figures(self) -> Mapping[str, float]:
        """What the freezing rule goes by in this step, whether or not it may end early; see `FreezingRule.figures`."""
        return self.rule.figures(self.movement.values)

    def finish_round(self) -> bool:
        """Count a round, and say whether another step begins with the next one."""
        self.spent += 1
        step = self.step
        allowed = step.rounds + (self.left_over if step.may_end_early else 0)
        converged = step.may_end_early and self.spent >= self._min_rounds and self.rule.holds(self.movement.values)
        over = self.spent >= allowed or converged
        if not over or self.position + 1 == len(self.steps):
            return False
        self._enter(self.position + 1, left_over=step.rounds + self.left_over - self.spent)
        return True

    def _enter(self, position: int, left_over: int) -> None:
        self.position = position
        self.spent = 0
        self.left_over = left_over
        self.movement = self._new_log(self.step.task)

    def state_dict(self, movement: str = "movement") -> dict[str, Any]:
        """Return what is needed to go on, that of the log under the name ``movement``."""
        own = {"position": self.position, "spent": self.spent, "left_over": self.left_over}
        return {**own, movement: self.movement.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], movement: str = "movement") -> None:
        """Go on from what ``state_dict`` returned."""
        self._enter(state["position"], state["left_over"])
        self.spent = state["spent"]
        self.movement.load_state_dict(state[movement])
