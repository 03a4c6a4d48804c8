"""Width slicing: the task of training the leading channels of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor, nn

from profl.bench.aggregation import leading
from profl.bench.errors import InputError
from profl.bench.method import LocalContext, Task
from profl.bench.models import ModelSpec

RATES = ("1", "1/2", "1/4", "1/8", "1/16")
"""Shares of the channels at HeteroFL's five levels of complexity, a to e; widest first."""


def parse_rates(rates: Sequence[str | float]) -> list[Fraction]:
    """Return the rates as exact fractions, widest first; ``"1/3"``, ``"0.25"`` and ``0.25`` are understood.

    Raises
    ------
    InputError
        If there is none, if one is not a number in (0, 1], or if two are equal.
    """
    try:
        fractions = sorted((Fraction(str(rate)) for rate in rates), reverse=True)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"rates must be numbers such as 1/4 or 0.25: {error}") from error
    if not fractions or not all(0 < rate <= 1 for rate in fractions) or len(set(fractions)) < len(fractions):
        raise InputError(f"rates must be different numbers in (0, 1], not {', '.join(map(str, rates))}")
    return fractions


def load_leading(module: nn.Module, global_state: Mapping[str, Tensor]) -> None:
    """Copy the leading elements of the global tensors into the tensors of a narrower module, in place."""
    module.load_state_dict(
        {name: leading(global_state[name], value.shape) for name, value in module.state_dict().items()}
    )


@dataclass(frozen=True)
class WidthTask(Task):
    """Train a network of the model's architecture, the first ``ceil(rate * channels)`` of every layer.

    At rate 1 this is plain training of the full model.
    """

    model: ModelSpec

    @property
    def key(self) -> str:
        return f"width {self.model.rate}"

    def build(self) -> nn.Module:
        return self.model.build()

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        load_leading(module, global_state)
