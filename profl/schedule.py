"""The steps of a run in their order, and how many of its rounds each gets.

The schedule runs from the last block to the first and back: shrink T, map T, ..., shrink 2, map 2, grow 1,
..., grow T. Blocks that are warmed up: ..., grow 1, warm up 2, grow 2, ...
"""

from __future__ import annotations

from profl.bench.errors import InputError
from profl.bench.models import ModelSpec
from profl.blocks import BlockTask, block_parameters
from profl.growing import GrowTask
from profl.options import ProFLOptions
from profl.shrinking import MapTask, ShrinkTask
from profl.steps import Step, apportion
from profl.warming import WarmUpTask


def schedule(model: ModelSpec, rounds: int, options: ProFLOptions) -> list[Step[BlockTask]]:
    """Return the steps of a run in their order; their rounds sum to ``rounds``.

    Raises
    ------
    InputError
        If the rounds do not suffice for every step; the message names the least number.
    """
    parameters = [sum(block.values()) for block in block_parameters(model)]
    blocks = range(1, len(parameters) + 1)
    shrunk = blocks[:0:-1] if options.shrinking else blocks[:0]  # block 1 is never shrunk [code]
    of_a_block = options.warm_up_rounds + options.min_rounds
    of_a_shrunk_block = options.shrink_min_rounds + options.map_min_rounds
    growing_least = len(blocks) * of_a_block
    least = growing_least + len(shrunk) * of_a_shrunk_block
    if rounds < least:
        without = "shrinking out (--option profl.shrinking=false)"
        remedy = f", or leave {without}" if shrunk and rounds >= growing_least else ""
        raise InputError(f"profl cannot train {model.name} in {rounds} rounds: give it at least {least}{remedy}")

    kind = (options.frozen_batchnorm, options.stand_in)
    steps: list[Step[BlockTask]] = []
    growing = rounds
    if shrunk:
        wanted = int(options.shrink_share * rounds / len(shrunk))
        each = min(max(of_a_shrunk_block, wanted), (rounds - growing_least) // len(shrunk))
        mapping = min(max(options.map_min_rounds, round(options.map_share * each)), each - options.shrink_min_rounds)
        for block in shrunk:
            steps.append(Step(ShrinkTask(model, block, *kind), each - mapping))
            steps.append(Step(MapTask(model, block, *kind, options.map_learning_rate), mapping))
        growing -= each * len(shrunk)
    shares = parameters if options.pace == "parameters" else [1] * len(blocks)
    for block, part in zip(blocks, apportion(growing, shares, of_a_block), strict=True):
        warm_up = options.warm_up_rounds if block > 1 else 0
        if warm_up:
            steps.append(Step(WarmUpTask(model, block, *kind), warm_up))
        steps.append(Step(GrowTask(model, block, *kind), part - warm_up, options.pace == "effective_movement"))
    return steps
