"""NeuLite: blocks take turns every round, each with an output module of its own and a loss that says what it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from profl.bench.aggregation import Update
from profl.bench.errors import InputError
from profl.bench.method import LocalContext, Method, Task, TestedNetwork
from profl.bench.models import ModelSpec
from profl.bench.randomness import initialised
from profl.blocks import changed_state, pass_through

KERNEL_WIDTH = 5.0
"""Sigma of the Gaussian kernels, in deviations of one feature [code, ``NeuLite_code/update.py``]."""

Weight = Annotated[float, Field(ge=0, le=10**6)]


@validated(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class NeuLiteOptions:
    """The knobs of NeuLite.

    Parameters
    ----------
    input_weight
        Weight of what the features keep of the input, for the first block; it falls in equal steps to a T-th of that
        for the last of T. The code takes a weight for every stage without saying any; number and course are [default].
    label_weight
        Weight of what they say of the labels, for the last block; it rises in equal steps from a T-th of that for the
        first [default].
    """

    input_weight: Weight = 0.1
    label_weight: Weight = 0.1


class NeuLite(Method):
    """Wu, Li, Tian, Xu: *NeuLite*, arXiv 2408.10826; details as in ``Wuxiaobo315/NeuLiteCode``, its ResNet34.

    The blocks, ProFL's, take turns: round t trains block t, and after the last the first comes again [code]. A device
    holds the first t blocks and that stage's own output module: one convolution for every later block, average and
    linear layer. It trains block t, the output module, and, so that neighbours fit (*training harmonizer*), the last
    convolution of block t - 1 with its BatchNorm [code]; what is before that is frozen. The loss (*curriculum mentor*)
    is the cross-entropy, less what the features in front of the average keep of the input and less what a projection
    of their average, three linear layers, says of the labels: each as normalised HSIC, with Gaussian kernels [code].

    A device uploads what trains, and the running statistics of the frozen blocks; the server takes the plain mean
    [default]. The network that is tested is the deepest stage's of which devices have trained all: the full model from
    round T on, if any device can hold its stage. The projection is for training alone.

    Raises
    ------
    InputError
        If the rounds do not suffice for every block to have a turn, or a block has no convolution.
    """

    kind: ClassVar[str] = "progressive"
    shrinks: ClassVar[str] = "what trains: one block and the end of the one before it, in turn"
    source: ClassVar[str] = "Wu et al., NeuLite, arXiv 2408.10826, 2024; github.com/Wuxiaobo315/NeuLiteCode"
    deviations = (
        "The weights of the two HSIC terms are ours; the published code leaves them open.",
        "The projection's hidden layers are 4 and 2 times as wide as its input; published are 2056 and 1024 of 512.",
        "The code's L2 term is 0 and left out.",
        "Stand-ins for VGG's blocks, and where it is cut, are our choice.",
    )

    Options = NeuLiteOptions
    options: NeuLiteOptions

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: NeuLiteOptions) -> None:
        super().__init__(model, rounds, seed, options)
        stages = model.skeleton().stages
        for number, stage in enumerate(stages, start=1):
            if not any(isinstance(part, nn.Conv2d) for part in stage.modules()):
                raise InputError(f"neulite cannot train {model.name}, as its block {number} has no convolution")
        self._count = len(stages)
        if rounds < self._count:
            raise InputError(f"neulite cannot train {model.name} in {rounds} rounds: give it at least {self._count}")
        self._tasks = [TurnTask(model, block, *self._weights(block)) for block in range(1, self._count + 1)]
        with initialised(seed, "model"):
            self.global_state = dict(StageModel(model, self._count).state_dict())
        with initialised(seed, "neulite", "output modules"):
            for task in self._tasks:
                self.global_state = {**task.build().state_dict(), **self.global_state}

    def _weights(self, block: int) -> tuple[float, float]:
        """Weights of the terms for input and labels."""
        options = self.options
        return (
            options.input_weight * (self._count - block + 1) / self._count,
            options.label_weight * block / self._count,
        )

    def all_tasks(self) -> Sequence[Task]:
        return self._tasks

    def tasks(self) -> Sequence[Task]:
        return [self._tasks[self.finished_rounds % self._count]]

    @property
    def phase(self) -> str:
        return f"{self.tasks()[0].key}/{self._count}"

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [
            TestedNetwork(f"{block} of {self._count} blocks", partial(StageModel, self.model, block))
            for block in range(self._count, 0, -1)
        ]


class StageModel(nn.Module):
    """The first blocks of a model and the output module of their stage, whose tensors have its number in their names.

    Parameters
    ----------
    spec
        The full model.
    blocks
        How many blocks are there; also the number of the stage, from 1. The last one's output module is the head.
    """

    def __init__(self, spec: ModelSpec, blocks: int) -> None:
        super().__init__()
        model = spec.build()
        self.stem = model.stem
        self.stages = model.stages[:blocks]
        stand_ins = [model.stand_in(stage) for stage in range(blocks, len(model.stages))]
        self.outputs = nn.ModuleDict({str(blocks): nn.ModuleList([*stand_ins, model.head])})

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (batch, classes), for ``inputs`` of shape (batch, channels, height, width)."""
        return self._head(self._features(inputs))

    def _features(self, inputs: Tensor) -> Tensor:
        *stand_ins, _ = self._output
        return pass_through([self.stem, *self.stages, *stand_ins], inputs)

    @property
    def _head(self) -> nn.Module:
        return self._output[-1]

    @property
    def _output(self) -> list[nn.Module]:
        (output,) = self.outputs.values()
        return list(output.children())


class TrainedStage(StageModel):
    """A stage as a device trains it: with the projection, and all frozen but what has its turn."""

    def __init__(self, spec: ModelSpec, block: int) -> None:
        super().__init__(spec, block)
        channels = spec.skeleton().stage_channels[-1]
        self.projections = nn.ModuleDict(
            {
                str(block): nn.Sequential(
                    nn.Linear(channels, 4 * channels),
                    nn.Linear(4 * channels, 2 * channels),
                    nn.Linear(2 * channels, channels),
                )
            }
        )
        self.stem.requires_grad_(block == 1)
        self.stages[:-1].requires_grad_(False)
        for before in self.stages[-2:-1]:
            for part in last_convolution(before):
                part.requires_grad_(True)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Return logits (batch, classes), features (batch, channels, height, width), projection (batch, channels)."""
        (projection,) = self.projections.values()
        features = self._features(inputs)
        return self._head(features), features, projection(features.mean((2, 3)))


def last_convolution(stage: nn.Module) -> list[nn.Module]:
    """Return the last convolution of a stage that lies on no shortcut, and the normalisation right behind it."""
    leaves = [
        part for name, part in stage.named_modules() if not any(part.children()) and "downsample" not in name.split(".")
    ]
    last = max(place for place, part in enumerate(leaves) if isinstance(part, nn.Conv2d))
    behind = leaves[last + 1 : last + 2]
    return [leaves[last], *(part for part in behind if isinstance(part, (_BatchNorm, nn.GroupNorm)))]


@dataclass(frozen=True)
class TurnTask(Task):
    """Train a block, its stage's output module and the last convolution of the block before it.

    Parameters
    ----------
    model
        The full model.
    block
        The block, from 1.
    input_weight, label_weight
        Weights of the terms for input and labels; they change no tensor and so no footprint.
    """

    unsuited_techniques: ClassVar[Mapping[str, str]] = {"micro-batch": "would change a loss of whole batches"}

    model: ModelSpec
    block: int
    input_weight: float
    label_weight: float

    @property
    def key(self) -> str:
        return f"turn {self.block}"

    def build(self) -> nn.Module:
        return TrainedStage(self.model, self.block)

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, less the weighted dependences of features on inputs and projection on labels."""
        logits, features, projected = module(inputs)
        of_input = normalised_hsic(features.flatten(1), inputs.flatten(1))
        of_labels = normalised_hsic(projected, functional.one_hot(targets, self.model.classes).to(projected.dtype))
        return functional.cross_entropy(logits, targets) - self.input_weight * of_input - self.label_weight * of_labels

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        return Update(changed_state(module), local.examples)


def normalised_hsic(one: Tensor, other: Tensor) -> Tensor:
    """Return how far two sets of vectors depend on each other, in [0, 1]: ``HSIC(a, b) / sqrt(HSIC(a, a) HSIC(b, b))``.

    0 where there is nothing to compare: one example, or all alike.

    Parameters
    ----------
    one, other
        Shapes (batch, dimensions of one) and (batch, dimensions of the other).
    """
    first, second = _centred_kernel(one), _centred_kernel(other)
    # Products of centred kernels are small (1e-12 is usual), so the bound must be far smaller.
    scale = (_hsic(first, first) * _hsic(second, second)).clamp_min(1e-24).sqrt()
    return _hsic(first, second) / scale


def _centred_kernel(vectors: Tensor) -> Tensor:
    squares = vectors.square().sum(dim=1)
    distances = (squares[:, None] + squares - 2 * vectors @ vectors.T).clamp_min(0)
    kernel = torch.exp(-distances / (2 * KERNEL_WIDTH**2 * vectors.shape[1]))
    return kernel - kernel.mean(dim=1, keepdim=True)


def _hsic(first: Tensor, second: Tensor) -> Tensor:
    return (first * second.T).mean()
