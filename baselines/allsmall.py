"""AllSmall: one narrow model for everyone, as wide as the weakest device can train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from profl.baselines.width import RATES, WidthTask, parse_rates
from profl.bench.aggregation import State
from profl.bench.method import Method, Task, TestedNetwork, filled, initial_state
from profl.bench.models import ModelSpec


class AllSmall(Method):
    """Federated averaging of one model for all: the widest that as many devices can train as any.

    Devices that cannot train it sit out: those that could train no width at all.
    """

    kind = "width"
    shrinks = "channels, the leading ones, on every device"
    source = "a baseline of ProFL's paper (KDD 2025) and of others"
    deviations = (
        "The width is the widest that as many devices can train as any; usual is what the weakest device can train.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of AllSmall.

        Parameters
        ----------
        rates
            Shares of the channels to choose from, in any order. Default: HeteroFL's.
        initial_values
            ``"sliced"``: the leading slice of the full model's, from which every other method starts too;
            ``"own"``: those of a network of this width. Kaiming's deviation grows as the layers narrow, so that its
            weights are larger: under BatchNorm the same learning rate then moves them less.
        """

        rates: tuple[str | float, ...] = RATES
        initial_values: Literal["sliced", "own"] = "sliced"

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._rates = parse_rates(options.rates)
        self._small = model.at_rate(self._rates[-1])

    @cached_property
    def global_state(self) -> State:
        """The small network's tensors; which network that is `settle` decides before they are first read."""
        if self.options.initial_values == "own":
            return initial_state(self._small, self.seed)
        return filled(self._small.build, initial_state(self.model, self.seed)).state_dict()

    def all_tasks(self) -> Sequence[Task]:
        return [WidthTask(self.model.at_rate(rate)) for rate in self._rates]

    def tasks(self) -> Sequence[Task]:
        return [WidthTask(self._small)]

    def settle(self, eligible_devices: Mapping[str, int]) -> None:
        counts = [eligible_devices[task.key] for task in self.all_tasks()]
        if max(counts) > 0:
            self._small = self.model.at_rate(self._rates[counts.index(max(counts))])

    @property
    def phase(self) -> str:
        return f"train width {self._small.rate}"

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [TestedNetwork(f"width {self._small.rate}", self._small.build)]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rate": str(self._small.rate)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._small = self.model.at_rate(Fraction(state["rate"]))
