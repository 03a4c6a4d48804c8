"""Steps of a method, one after another: how rounds are dealt to them, and where a run stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from profl.bench.method import Task

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


class Course(Generic[StepTask]):
    """Where a run stands in its steps.

    Rounds are spent as the steps say; what one leaves over goes to the steps after it, and the last uses all that is
    left.

    Parameters
    ----------
    steps
        In their order; at least one.
    """

    def __init__(self, steps: Sequence[Step[StepTask]]) -> None:
        self.steps = steps
        self._enter(0, left_over=0)

    @property
    def step(self) -> Step[StepTask]:
        """The step that the coming round belongs to."""
        return self.steps[self.position]

    def finish_round(self, converged: bool = False) -> bool:
        """Count a round, and say whether another step begins with the next one.

        Parameters
        ----------
        converged
            Whether the step has reached what it is for; ends one that may end early.
        """
        self.spent += 1
        step = self.step
        allowed = step.rounds + (self.left_over if step.may_end_early else 0)
        over = self.spent >= allowed or (step.may_end_early and converged)
        if not over or self.position + 1 == len(self.steps):
            return False
        self._enter(self.position + 1, left_over=step.rounds + self.left_over - self.spent)
        return True

    def _enter(self, position: int, left_over: int) -> None:
        self.position = position
        self.spent = 0
        self.left_over = left_over

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on."""
        return {"position": self.position, "spent": self.spent, "left_over": self.left_over}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.position = state["position"]
        self.spent = state["spent"]
        self.left_over = state["left_over"]
