"""Warming up: before a block grows, it learns to do what its basic layer did. Not in ProFL [ours].

When a block takes over from its basic layer, the basic layers behind it and the head meet features that they never
saw. A block that has been warmed up gives them features like those they were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from profl.bench.models import ModelSpec
from profl.blocks import BlockModel, BlockTask, FrozenBatchNorm, StandIn, pass_through


class WarmUpModel(BlockModel):
    """A block as student and its basic layer as teacher, behind the frozen blocks; nothing behind them.

    Parameters
    ----------
    spec
        The full model.
    block
        The block that learns, from 2.
    frozen_batchnorm
        The mode of the blocks in front of it.
    stand_in
        The kind of basic layers.
    """

    def __init__(
        self, spec: ModelSpec, block: int, frozen_batchnorm: FrozenBatchNorm = "train", stand_in: StandIn = "bare"
    ) -> None:
        super().__init__(spec, block, block - 1, frozen_batchnorm, stand_in, replaced_from=block - 1)
        for stage in list(self.proxies)[1:]:
            del self.proxies[stage]
        self.proxies.requires_grad_(False)
        self.head = nn.Identity()

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the features that block and basic layer make, each of shape (batch, channels, height, width)."""
        *front, student = self.stages
        (teacher,) = self.proxies.values()
        with torch.no_grad():
            features = pass_through([self.stem, *front], inputs)
            wanted = teacher(features)
        return student(features), wanted


@dataclass(frozen=True)
class WarmUpTask(BlockTask):
    """Train a block alone: mean squared error between its features and those of its basic layer.

    A block that ends with a ReLU cannot follow a bare basic layer below zero; the error does not go to 0 then.
    """

    kind = "warm up"

    def build(self) -> nn.Module:
        return WarmUpModel(self.model, self.block, self.frozen_batchnorm, self.stand_in)

    @property
    def real_blocks(self) -> int:
        """How many blocks are real in the network that is tested meanwhile: this one has not taken over yet."""
        return self.block - 1

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error between the features; ``targets`` (batch,) do not matter."""
        student, teacher = module(inputs)
        return functional.mse_loss(student, teacher)
