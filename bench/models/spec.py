"""The value that names a network, at any width and rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

import torch
from torch import nn

from profl.bench.errors import InputError
from profl.bench.models.normalisation import batchnorms, normalise, split_name
from profl.bench.models.registry import families, is_of_family, model_builder, models
from profl.bench.models.staged import StagedModel

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class ModelSpec:
    """Names one network; equal specs build equal shapes.

    Parameters
    ----------
    name
        A model of the registry, for example ``resnet18``; with another normalisation ``resnet18:group``.
    width
        Channels that go into the first stage of the full model (64 in the papers); all others are multiples.
    classes
        Number of classes.
    rate
        Share of every layer's channels that is kept, in (0, 1]; 1 is the full model.
    """

    name: str
    width: int
    classes: int
    rate: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.rate != 1 and is_of_family(self.name):
            raise InputError(
                f"model '{self.name}' has one width: choose methods that narrow no network, or one of "
                f"{', '.join(sorted(models()))}"
            )

    def channels(self, multiple: int | Fraction) -> int:
        """Channels of a layer that has ``multiple * width`` in the full model: ``ceil(rate * multiple * width)``.

        The rounding is HeteroFL's (``diaoenmao/HeteroFL-Computation-and-Communication-Efficient-Federated-Learning``).
        """
        return math.ceil(self.rate * multiple * self.width)

    def at_rate(self, rate: Fraction) -> ModelSpec:
        """Return the same network with only the share ``rate`` of its channels."""
        return replace(self, rate=rate)

    def skeleton(self) -> StagedModel:
        """Return the network on the device 'meta': all that it states and its tensors' shapes, in no memory."""
        with torch.device("meta"):
            return self.build()

    def build(self) -> StagedModel:
        """Build the network with PyTorch's global random generator.

        Raises
        ------
        profl.bench.errors.InputError
            As `model_builder`, if what it offers builds anything else than a ``StagedModel``, or if there is no
            BatchNorm that another normalisation could replace.
        """
        model = model_builder(self.name)(self)
        name, normalisation = split_name(self.name)
        if not isinstance(model, StagedModel):
            point = families()[name.partition(":")[0]] if is_of_family(name) else models()[name]
            where = f"model '{name}' ({point.value})"
            raise InputError(
                f"{where} builds an instance of {type(model).__name__}, not of profl.bench.models.StagedModel"
            )
        if normalisation is not None and not batchnorms(model):
            raise InputError(f"model '{name}' has no BatchNorm: leave ':{normalisation}' out")
        return self.normalised(model)

    def normalised(self, module: Module) -> Module:
        """Return ``module``, whose BatchNorms become what the model has: for layers that a method adds to a network."""
        normalise(module, split_name(self.name)[1])
        return module
