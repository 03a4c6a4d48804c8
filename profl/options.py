"""The knobs of ProFL, each marked as published or as our choice."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from profl.bench.errors import InputError
from profl.blocks import FrozenBatchNorm

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
