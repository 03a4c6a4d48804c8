"""AllSmall: one narrow model for everyone, as wide as the weakest device can train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from profl.baselines.width import RATES, WidthTask, parse_rates
from profl.bench.method import Method, Task, filled, initial_state
from profl.bench.models import ModelSpec


class AllSmall(Method):
    """Federated averaging of the widest model that the whole fleet can train.

    If the fleet's weakest device cannot even train the narrowest model, that one is taken and the devices
    that cannot train it sit out. The model is small from the start: it has the initial values of a network of
    its own width, not a slice of the wide one, whose weights would be too small for fewer inputs.
    """

    @dataclass(frozen=True)
    class Options:
        """Options of AllSmall.

        Parameters
        ----------
        rates
            Shares of the channels to choose from, in any order. Default: HeteroFL's.
        """

        rates: tuple[str | float, ...] = RATES

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._rates = parse_rates(options.rates)
        self._start(self._rates[-1])

    def _start(self, rate: Fraction) -> None:
        self._small = self.model.at_rate(rate)
        self.global_state = initial_state(self._small, self.seed)

    def all_tasks(self) -> Sequence[Task]:
        return [WidthTask(self.model.at_rate(rate)) for rate in self._rates]

    def tasks(self) -> Sequence[Task]:
        return [WidthTask(self._small)]

    def settle(self, trainable_by_all: Sequence[Task]) -> None:
        keys = {task.key for task in trainable_by_all}
        rates = (rate for rate, task in zip(self._rates, self.all_tasks(), strict=True) if task.key in keys)
        self._start(next(rates, self._rates[-1]))

    @property
    def phase(self) -> str:
        return f"train width {self._small.rate}"

    def global_model(self) -> nn.Module:
        return filled(self._small.build, self.global_state)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rate": str(self._small.rate)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._small = self.model.at_rate(Fraction(state["rate"]))
