"""Model growing: blocks train front to back, each on top of those before it, which are frozen."""

from __future__ import annotations

from dataclasses import dataclass

from profl.blocks import BlockTask


@dataclass(frozen=True)
class GrowTask(BlockTask):
    """Train a block with its output module: the basic layers of all later blocks, and the head [code].

    At step 1 the stem trains with the first block; at the last step there is no basic layer left, and the
    module is the full model.
    """

    kind = "grow"
