"""When a block has converged: effective movement of its parameters, and the rule that freezes it.

Effective movement is how far parameters got, as a share of how far they travelled: near 1 while they still
move in one direction, falling as they begin to wander about a place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from profl.bench.randomness import numpy_generator


def effective_movement(weights: Sequence[Tensor]) -> float:
    """Return ``|w_t - w_{t-H}| / sum_k |w_{t-k} - w_{t-k-1}|`` in 1-norms, k = 0 .. H-1, in [0, 1] [code].

    A straight way gives 1, a way back to its start 0, independent noise about 1 / sqrt(H).

    Parameters
    ----------
    weights
        The parameters after each of H + 1 consecutive rounds, oldest first; each of shape (scalars,).

    Returns
    -------
    float
        The effective movement; 0 if nothing moved at all [default], NaN if the weights diverged.
    """
    path = torch.stack(list(weights)).double()
    travelled = path.diff(dim=0).abs().sum().item()
    # In this order, so that diverged weights give NaN.
    return min((path[-1] - path[0]).abs().sum().item() / travelled, 1.0) if travelled else 0.0


def slope(values: Sequence[float]) -> float:
    """Return the least-squares slope of at least two values, spread evenly over x in [0, 1] [default].

    On an axis of one unit a round, the slope of a quantity in [0, 1] stays under the published threshold of
    0.2 whatever it does; on this axis it is the change over the whole window.
    """
    x = np.linspace(-0.5, 0.5, len(values))
    return float(x @ np.asarray(values) / (x @ x))


@dataclass(frozen=True)
class FreezingRule:
    """Freeze when the slope of effective movement stays small [inferred].

    The earliest freeze comes after ``movement_rounds + window + evaluations - 2`` rounds of a step.

    Parameters
    ----------
    window
        How many latest values of effective movement the slope is fitted to.
    evaluations
        For how many consecutive rounds it must stay small.
    threshold
        What its absolute value must stay under.
    """

    window: int
    evaluations: int
    threshold: float

    @property
    def needs(self) -> int:
        """From how many values of a step on it says anything."""
        return self.window + self.evaluations - 1

    def holds(self, values: Sequence[float]) -> bool:
        """Say whether the rule holds after the last of a step's ``values`` of effective movement."""
        starts = range(len(values) - self.needs, len(values) - self.window + 1)
        return starts[0] >= 0 and all(
            abs(slope(values[start : start + self.window])) < self.threshold for start in starts
        )

    def figures(self, values: Sequence[float]) -> dict[str, float]:
        """Return a step's last effective movement, its slope, and whether the rule holds (1 or 0); NaN is unknown."""
        return {
            "effective_movement": values[-1] if values else nan,
            "movement_slope": slope(values[-self.window :]) if len(values) >= self.window else nan,
            "would_freeze": float(self.holds(values)) if len(values) >= self.needs else nan,
        }


class MovementLog:
    """Effective movement of one block of the global model, round by round.

    Parameters
    ----------
    parameters
        The block's parameters: names and numbers of scalars.
    rounds
        H, over how many rounds movement is taken.
    scalars
        At most how many scalars are followed; of a larger block a random subset, fixed for the step.
    seed, name
        Name the generator that draws the subset.
    """

    def __init__(self, parameters: Mapping[str, int], rounds: int, scalars: int, seed: int, *name: str | int) -> None:
        self.values: list[float] = []
        self._parameters = list(parameters)
        self._followed = self._subset(sum(parameters.values()), scalars, seed, *name)
        self._weights: deque[Tensor] = deque(maxlen=rounds + 1)

    @staticmethod
    def _subset(total: int, scalars: int, seed: int, *name: str | int) -> Tensor:
        if total <= scalars:
            return torch.arange(total)
        chosen = numpy_generator(seed, *name).choice(total, scalars, replace=False)
        return torch.from_numpy(np.sort(chosen))

    def observe(self, global_state: Mapping[str, Tensor]) -> None:
        """Take the parameters as they are now; from the H-th observation after the first on, add a value."""
        flat = torch.cat([global_state[name].flatten() for name in self._parameters])
        self._weights.append(flat[self._followed])
        if len(self._weights) == self._weights.maxlen:
            self.values.append(effective_movement(self._weights))

    def state_dict(self) -> dict[str, Any]:
        """Return what the log has seen; the subset follows from its name."""
        return {"values": list(self.values), "weights": list(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.values = list(state["values"])
        self._weights = deque(state["weights"], maxlen=self._weights.maxlen)
