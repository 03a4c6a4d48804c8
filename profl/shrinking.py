"""Model shrinking: blocks train back to front, and each is then mapped into the basic layer that replaces it.

Shrinking gives growing its initial parameters and its output modules [paper]. The last block's two steps are
published [code]; that the others go on in the same way, down to block 2, is [inferred].
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from profl.bench.models import ModelSpec
from profl.blocks import BlockModel, BlockTask, FrozenBatchNorm, StandIn, pass_through

TEACHER_HEAD = "teacher_head"
"""Server-side name of the head that the mapping's teacher keeps while the student's head trains."""


@dataclass(frozen=True)
class ShrinkTask(BlockTask):
    """Train a block, with the basic layers of the blocks already replaced behind it.

    The blocks in front are there in full, frozen at their random initial values. For the last block, it and
    the head train [code]; that the basic layers train along at the others is [inferred] from growing, where
    they do. The module, and so the footprint, is that of growing the same block.
    """

    kind = "shrink"


class MapModel(BlockModel):
    """A block as teacher and its basic layer as student, between the same frozen blocks and basic layers.

    Both see the features that the frozen blocks compute once. The teacher needs no autograd.

    Parameters
    ----------
    spec
        The full model.
    block
        The block to replace, from 2.
    frozen_batchnorm
        The mode of the frozen blocks, the teacher's among them.
    stand_in
        The kind of basic layers.
    """

    def __init__(
        self, spec: ModelSpec, block: int, frozen_batchnorm: FrozenBatchNorm = "train", stand_in: StandIn = "bare"
    ) -> None:
        super().__init__(spec, block, block, frozen_batchnorm, stand_in, replaced_from=block - 1)
        student, *later = self.proxies.values()
        self.teacher_head = None if later else copy.deepcopy(self.head)
        self.requires_grad_(False)
        student.requires_grad_(True)
        self.head.requires_grad_(not later)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the logits of student and teacher, each of shape (batch, classes)."""
        *front, teacher = self.stages
        student, *later = self.proxies.values()
        teacher_head = self.head if self.teacher_head is None else self.teacher_head
        with torch.no_grad():
            features = pass_through([self.stem, *front], inputs)
            wanted = pass_through([teacher, *later, teacher_head], features)
        return pass_through([student, *later, self.head], features), wanted


@dataclass(frozen=True)
class MapTask(BlockTask):
    """Map a trained block into its basic layer: mean squared error between the logits of both [code].

    After the last block the new basic layer and the head train, after an earlier one the new basic layer
    alone [code]. The teacher keeps the head it was trained with. A teacher in train mode moves its running
    statistics like any frozen block, and they are uploaded [default].

    Parameters
    ----------
    learning_rate
        Learning rate of the mapping, in place of the recipe's.
    """

    learning_rate: float | None = None

    kind = "map"

    def build(self) -> nn.Module:
        return MapModel(self.model, self.block, self.frozen_batchnorm, self.stand_in)

    @property
    def real_blocks(self) -> int:
        """How many blocks are real in the student."""
        return self.block - 1

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error between the logits; ``targets`` (batch,) do not matter."""
        student, teacher = module(inputs)
        return functional.mse_loss(student, teacher)
