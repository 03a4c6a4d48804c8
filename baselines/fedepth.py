"""FeDepth: every device trains the whole network, in as many segments one after another as its memory demands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from profl.baselines.depth import AveragingOptions, stage_count
from profl.bench.aggregation import Update, owner_mean
from profl.bench.method import LocalContext, Method, Task
from profl.bench.models import ModelSpec


class FeDepth(Method):
    """Zhang et al.: *Memory-adaptive Depth-wise Heterogeneous Federated Learning*, 2023; code ``taokz/FeDepth``.

    A device cuts the network behind stages into segments and trains one after another within a round, front to back,
    each for all local epochs [code]. The segments before run without autograd; behind the segment a skip without
    parameters leads to the network's head, which trains in every segment [code]: it takes every n-th pixel, where the
    later stages would divide height and width by n, and pads the channels with zeros on both sides [code]. The stem
    belongs to the first segment [code]. In one segment all of this is federated averaging.

    A device uploads everything; the server takes the mean, weighted by examples [code]. BatchNorm normalises by the
    batch, in frozen segments too, whose running statistics move [code]. The full model is tested.

    A device takes the fewest segments that fit it and of those the longest in front, as the paper's rule of adding
    block after block to a segment while memory lasts would [paper]. So each way to cut the network is a task, 8 of
    them for four stages. Its memory is that of its dearest segment, its operations are those of all segments.
    """

    kind: ClassVar[str] = "depth"
    shrinks: ClassVar[str] = "what trains at a time, one segment of stages after another"
    source: ClassVar[str] = "Zhang et al., 2023 (arXiv 2303.04887); taokz/FeDepth"

    deviations = (
        "Segments are made of stages; published are residual blocks of a ResNet20 with BatchNorm in front.",
        "Every segment has a fresh optimizer, so that no momentum is kept for others; published is one for all.",
        "A device that cannot hold the first segment sits out; the published one trains what lies behind it.",
        "Mutual distillation on devices with memory to spare (m-FeDepth) is left out.",
    )

    Options = AveragingOptions

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._tasks = [SegmentsTask(model, lengths) for lengths in decompositions(stage_count(model))]

    def all_tasks(self) -> Sequence[Task]:
        return self._tasks

    def tasks(self) -> Sequence[Task]:
        return self._tasks

    def aggregate(self, updates: Sequence[Update]) -> None:
        owner_mean(self.global_state, updates, by_examples=self.options.weighted_by_examples)


def decompositions(stages: int) -> list[tuple[int, ...]]:
    """Return every way to cut a row of stages, as lengths of segments: fewest first, of those the longest in front."""

    def ways(left: int) -> Iterator[tuple[int, ...]]:
        yield (left,)
        for first in range(1, left):
            yield from ((first, *rest) for rest in ways(left - first))

    return sorted(ways(stages), key=lambda lengths: (len(lengths), [-length for length in lengths]))


@dataclass(frozen=True)
class SegmentsTask(Task):
    """Train segment after segment, on top of those before it.

    Parameters
    ----------
    model
        The full network.
    lengths
        Stages of each segment, front to back; they sum to those of the network.
    """

    model: ModelSpec
    lengths: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"segments {'+'.join(map(str, self.lengths))}"

    @property
    def segments(self) -> int:
        return len(self.lengths)

    def build(self) -> nn.Module:
        return SegmentedModel(self.model, self.lengths)

    def enter(self, module: nn.Module, segment: int) -> None:
        assert isinstance(module, SegmentedModel)  # as built
        module.segment = segment

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        super().load(module, global_state, local)
        self.enter(module, 0)


class SegmentedModel(nn.Module):
    """A network of which one segment trains, with the head directly behind it; tensors are named as in the full model.

    Parameters
    ----------
    spec
        The full network.
    lengths
        Stages of each segment.
    """

    def __init__(self, spec: ModelSpec, lengths: Sequence[int]) -> None:
        super().__init__()
        full = spec.build()
        self.stem, self.stages, self.head = full.stem, full.stages, full.head
        self.lengths = tuple(lengths)
        self.segment = 0
        self._channels, self._strides = full.stage_channels, full.stage_strides

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (batch, classes)."""
        begin, end = sum(self.lengths[: self.segment]), sum(self.lengths[: self.segment + 1])
        parts = [self.stem, *self.stages[:end]]
        frozen = begin + 1 if begin else 0  # the stem goes with the first segment
        features = inputs
        with torch.no_grad():
            for part in parts[:frozen]:
                features = part(features)
        for part in parts[frozen:]:
            features = part(features)
        return self.head(skip(features, math.prod(self._strides[end:]), self._channels[-1]))


def skip(features: Tensor, stride: int, channels: int) -> Tensor:
    """Return features as the last stage would give them, in shape: every ``stride``-th pixel, channels padded.

    Parameters
    ----------
    features
        Shape (batch, channels, height, width); of another shape where neither pixels nor channels change.
    stride
        Of all later stages together.
    channels
        That leave the last stage; zeros are added on both sides, of an odd number one more behind.
    """
    missing = channels - features.shape[1]
    if stride == 1 and missing == 0:
        return features
    return functional.pad(features[:, :, ::stride, ::stride], (0, 0, 0, 0, missing // 2, missing - missing // 2))
