"""Cut a staged model into blocks, and train one of them: the module a device holds, and the task around it.

Blocks are counted from 1: block t is stage t, and the stem belongs to block 1 [code]. Where a later block
would be stands a *basic layer*, as the model states it (``StagedModel.stand_in``): for a ResNet one 3x3
convolution with the block's stride, 2 in its later stages, without bias, BatchNorm or activation [code], its
initial values Kaiming fan-out like the network's other convolutions [default]; for a VGG one 3x3 convolution
and the block's pooling [default]. Each of its convolutions may have BatchNorm (or what the model has in its place) and
ReLU behind it [ours]. A basic layer is called a proxy where it is a tensor's name: ``proxies.i`` stands in for
``stages.i``, whose index counts from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from profl.bench.aggregation import State
from profl.bench.errors import InputError
from profl.bench.method import LocalContext, Task, Update, initial_state
from profl.bench.models import ModelSpec, StagedModel
from profl.bench.randomness import initialised

FrozenBatchNorm = Literal["train", "eval"]
"""The mode of frozen blocks: batch statistics, while the running ones move; or the running ones, unmoved."""
StandIn = Literal["bare", "normalised"]
"""Basic layers as the model states them; or with BatchNorm and ReLU behind every convolution."""


class BlockModel(nn.Module):
    """The first blocks of a model, a basic layer for each later one, and the head.

    Its tensors have the names they have on the server: ``stem.*``, ``stages.i.*``, ``proxies.i.*``,
    ``head.*``. Frozen blocks run without autograd, so they leave nothing behind for a backward pass.

    Parameters
    ----------
    spec
        The full model.
    blocks
        How many blocks are real; there are no weights of the others in the module.
    frozen
        How many of them are frozen.
    frozen_batchnorm
        The mode of the frozen blocks, which ``train`` keeps.
    stand_in
        The kind of basic layers. Those with BatchNorm are in train mode, whatever the mode of frozen blocks.
    replaced_from
        The first stage (index from 0) with a basic layer; by default the one behind the real blocks.
    """

    def __init__(
        self,
        spec: ModelSpec,
        blocks: int,
        frozen: int,
        frozen_batchnorm: FrozenBatchNorm = "train",
        stand_in: StandIn = "bare",
        replaced_from: int | None = None,
    ) -> None:
        super().__init__()
        model = spec.build()
        replaced = range(blocks if replaced_from is None else replaced_from, len(model.stages))
        self.stem = model.stem
        self.stages = model.stages[:blocks]
        proxies = {str(stage): basic_layer(model, stage, stand_in) for stage in replaced}
        self.proxies = spec.normalised(nn.ModuleDict(proxies))
        self.head = model.head
        self.frozen_batchnorm = frozen_batchnorm
        self.frozen_parts = 1 + frozen if frozen else 0  # the stem goes with block 1
        for part in self._parts()[: self.frozen_parts]:
            part.requires_grad_(False)
        self.train()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (batch, classes), for ``inputs`` of shape (batch, channels, height, width)."""
        parts = self._parts()
        with torch.no_grad():
            features = pass_through(parts[: self.frozen_parts], inputs)
        return pass_through(parts[self.frozen_parts :], features)

    def train(self, mode: bool = True) -> BlockModel:
        """Set the mode of every part but of frozen blocks that must stay in eval mode."""
        super().train(mode)
        if self.frozen_batchnorm == "eval":
            for part in self._parts()[: self.frozen_parts]:
                part.eval()
        return self

    def _parts(self) -> list[nn.Module]:
        return [self.stem, *self.stages, *self.proxies.values(), self.head]


def basic_layer(model: StagedModel, stage: int, kind: StandIn) -> nn.Module:
    """Return what stands in for a stage of a model, counted from 0.

    Raises
    ------
    InputError
        If it should be normalised and has no convolution.
    """
    layer = model.stand_in(stage)
    if kind == "normalised":
        if not any(isinstance(part, nn.Conv2d) for part in layer.modules()):
            raise InputError(
                f"profl cannot normalise the stand-in of stage {stage} of {type(model).__name__}, which has no "
                "convolution: choose its option stand_in = bare"
            )
        layer = _normalised(layer)
    return layer


def _normalised(layer: nn.Module) -> nn.Module:
    # Directly behind the convolution, as in the blocks: behind a pooling there may be one pixel left, and BatchNorm
    # cannot train on one value.
    if isinstance(layer, nn.Conv2d):
        return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True))
    for name, part in layer.named_children():
        layer.add_module(name, _normalised(part))
    return layer


def pass_through(parts: Sequence[nn.Module], features: Tensor) -> Tensor:
    """Send ``features`` through one part after the other."""
    for part in parts:
        features = part(features)
    return features


@dataclass(frozen=True)
class BlockTask(Task):
    """Train one block, the basic layers behind it and the head with cross-entropy, on top of frozen blocks.

    Parameters
    ----------
    model
        The full model.
    block
        The active block, from 1.
    frozen_batchnorm
        The mode of the frozen blocks.
    stand_in
        The kind of basic layers.
    """

    model: ModelSpec
    block: int
    frozen_batchnorm: FrozenBatchNorm = "train"
    stand_in: StandIn = "bare"

    kind: ClassVar[str]
    """``grow``, ``shrink``, ``map`` or ``warm up``; the key starts with it."""

    @property
    def key(self) -> str:
        """For example ``grow 2``; what is not the default is added, as in ``grow 2 normalised frozen eval``."""
        stand_in = "" if self.stand_in == "bare" else f" {self.stand_in}"
        return f"{self.kind} {self.block}{stand_in}" + (" frozen eval" if self.frozen_batchnorm == "eval" else "")

    def build(self) -> nn.Module:
        return BlockModel(self.model, self.block, self.block - 1, self.frozen_batchnorm, self.stand_in)

    @property
    def real_blocks(self) -> int:
        """How many blocks are real in the network that this task improves."""
        return self.block

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        """Upload what training changes; of frozen blocks in train mode their running statistics.

        The published code averages full state dicts [code], which comes to the same: all else is equal
        everywhere.
        """
        return Update(changed_state(module), local.examples)


def initial_block_state(spec: ModelSpec, seed: int, stand_in: StandIn = "bare") -> State:
    """Return the initial tensors of the full model and of all basic layers, by their names on the server."""
    with initialised(seed, "profl", "basic layers"):
        first = BlockModel(spec, blocks=1, frozen=0, stand_in=stand_in).state_dict()
    proxies = {name: value for name, value in first.items() if name.startswith("proxies.")}
    return {**initial_state(spec, seed), **proxies}


def changed_state(module: nn.Module) -> State:
    """Return what training changes: trainable parameters, and the buffers of every part in train mode.

    The latter are BatchNorm statistics. Those of a frozen part in train mode move although its weights do not.
    """
    changed = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    changed |= {name for name, _ in module.named_buffers() if module.get_submodule(name.rpartition(".")[0]).training}
    return {name: value.detach().clone() for name, value in module.state_dict().items() if name in changed}


def block_parameters(spec: ModelSpec) -> list[dict[str, int]]:
    """Return, for every block of a model, front to back, its parameters' names and their numbers of scalars.

    The head belongs to no block.
    """
    model = spec.skeleton()
    parts = [{"stem": model.stem, "stages.0": model.stages[0]}]
    parts += [{f"stages.{index}": stage} for index, stage in enumerate(model.stages) if index]
    return [
        {name: parameter.numel() for prefix, part in block.items() for name, parameter in part.named_parameters(prefix)}
        for block in parts
    ]
