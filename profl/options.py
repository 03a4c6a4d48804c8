"""The knobs of ProFL: what its paper leaves open, and what we put to the test."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

from profl.blocks import FrozenBatchNorm, StandIn

Pace = Literal["effective_movement", "equal", "parameters"]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=10**6)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Several = Annotated[int, Field(ge=2, le=10**6)]


@validated(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class ProFLOptions:
    """The knobs of ProFL.

    Parameters
    ----------
    shrinking
        Whether model shrinking comes before growing [paper]; without it, growing starts from random values.
    shrink_share
        Share of all rounds that goes to shrinking, mappings included, in equal parts for every block
        [default].
    map_share
        Share of a block's shrinking rounds that goes to its mapping [default].
    shrink_min_rounds, map_min_rounds
        The least rounds of a block's shrinking and of its mapping, whatever the shares say [default]. Growing
        gives them up.
    map_learning_rate
        Learning rate of the mapping [code]. Published with rounds that are not known: in few, it moves next to nothing.
    frozen_batchnorm
        ``"train"``: frozen blocks normalise by the batch and their running statistics move [code];
        ``"eval"``: they normalise by the running statistics, which do not move. Concerns whole frozen
        blocks, dropout included.
    stand_in
        What replaces a later block: ``"bare"``, the layer that the model states, for ResNets one convolution
        alone [code]; ``"normalised"``, the same with BatchNorm and ReLU behind every convolution [ours].
    warm_up_rounds
        For how many of its growing rounds a block after the first trains alone, on what its basic layer gives
        [ours].
    pace
        What ends a growing step: ``"effective_movement"``, the freezing rule [paper], though no later than
        an equal share of the growing rounds allows [default]; ``"equal"``, that share; ``"parameters"``, a
        share in proportion to the block's parameters, the parameter-aware rival [inferred]. With the published
        numbers the rule does not speak before round 39 of a step: in a short run it is the equal pace.
    min_rounds
        The least rounds of a growing step, those of warming up not counted [default].
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
    - 2`` of a step, warming up not counted: 39 with the published numbers. Where the equal share is smaller, it never
    ends a step, and ``would_freeze`` is unknown in every round.
    """

    shrinking: bool = True
    shrink_share: Share = 0.25
    map_share: Share = 0.3
    shrink_min_rounds: Count = 1
    map_min_rounds: Count = 1
    map_learning_rate: Positive = 1e-5
    frozen_batchnorm: FrozenBatchNorm = "train"
    stand_in: StandIn = "bare"
    warm_up_rounds: Annotated[int, Field(ge=0, le=10**6)] = 0
    pace: Pace = "effective_movement"
    min_rounds: Count = 1
    movement_rounds: Several = 6
    movement_scalars: Count = 10_000
    slope_window: Several = 20
    slope_evaluations: Count = 15
    slope_threshold: Positive = 0.2
