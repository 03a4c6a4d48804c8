"""What depth methods share: the first stages of a network, with exits behind some of them, and averaging options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from profl.bench.models import ModelSpec, global_average_head


@dataclass(frozen=True)
class AveragingOptions:
    """How the server averages.

    Parameters
    ----------
    weighted_by_examples
        Weigh devices by their numbers of examples [code]; otherwise all count alike, as in the other methods.
    """

    weighted_by_examples: bool = True


NewExit = Callable[[Sequence[int], int], nn.Module]
"""Makes the exit behind a stage from that stage's channels and those of all later ones, and the classes."""


class MultiExit(nn.Module):
    """The first stages of a network and some of its exits; tensors are named alike at every depth.

    Parameters
    ----------
    stem
        Module in front of the first stage.
    stages
        The first stages, front to back.
    exits
        Classifiers by depth: number 1 stands behind the first stage.
    """

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module], exits: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.exits = nn.ModuleDict({str(depth): classifier for depth, classifier in exits.items()})

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Return the logits of every exit, each of shape (batch, classes), the shallowest first."""
        logits = []
        features = self.stem(inputs)
        for depth, stage in enumerate(self.stages, start=1):
            features = stage(features)
            if str(depth) in self.exits:
                logits.append(self.exits[str(depth)](features))
        return logits


class MeanLogits(MultiExit):
    """A network of several exits as a single classifier: the plain mean of their logits."""

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        """Return logits, shape (batch, classes)."""
        return torch.stack(super().forward(inputs)).mean(dim=0)


def cut(
    model: ModelSpec, depth: int, exits: Iterable[int], new_exit: NewExit, network: type[MultiExit] = MultiExit
) -> MultiExit:
    """Return the first ``depth`` stages and the exits of these depths; the last exit is the model's head.

    The others have the normalisation that the model has.
    """
    full = model.build()
    classifiers = {
        number: full.head if number == len(full.stages) else new_exit(full.stage_channels[number:], model.classes)
        for number in exits
    }
    return model.normalised(network(full.stem, full.stages[:depth], classifiers))


def plain_exit(channels: Sequence[int], classes: int) -> nn.Module:
    """Return a global average and one linear layer on the channels of the stage itself, ``channels[0]``."""
    return global_average_head(channels[0], classes)


def stage_count(model: ModelSpec) -> int:
    """Return how many stages, and so how many depths, a network has."""
    return len(model.skeleton().stages)
