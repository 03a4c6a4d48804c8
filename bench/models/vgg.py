"""VGGs with BatchNorm for small pictures: torchvision's layers, cut behind poolings.

Behind the last pooling a 32x32 picture is one pixel. As usual for small pictures, one linear layer stands where
torchvision has three.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from profl.bench.models.spec import ModelSpec
from profl.bench.models.staged import StagedModel, bare_convolution, global_average_head, initialise_convolutions


class VGG(StagedModel):
    """A network whose stages do not stride but pool."""

    def stand_in(self, stage: int) -> nn.Module:
        """Return one 3x3 convolution and the stage's pooling (our choice; ProFL's for VGG is not published)."""
        convolution = bare_convolution(self.stage_channels[stage], self.stage_channels[stage + 1])
        return nn.Sequential(convolution, nn.MaxPool2d(self.stage_strides[stage]))


def vgg11_bn(spec: ModelSpec) -> StagedModel:
    """Three stages of 1, 2 and 4 convolutions behind a stem of one (Simonyan and Zisserman, ICLR 2015, A)."""
    return _vgg(spec, (1, 1, 2, 2, 2))


def vgg16_bn(spec: ModelSpec) -> StagedModel:
    """Three stages of 2, 3 and 6 convolutions behind a stem of two (Simonyan and Zisserman, ICLR 2015, D)."""
    return _vgg(spec, (2, 2, 3, 3, 3))


def _vgg(spec: ModelSpec, convolutions: Sequence[int]) -> StagedModel:
    """Return a VGG of five times some convolutions and a pooling; the last two of these have one width.

    A stage has the convolutions of one width and ends with a pooling (our cut; how ProFL cuts VGG is not published).
    """
    first, second, third, fourth, fifth = convolutions
    channels = [spec.channels(multiple) for multiple in (1, 2, 4, 8)]
    stem = _pooled([StagedModel.input_shape[0], *[channels[0]] * first])
    stages = [
        _pooled([channels[0], *[channels[1]] * second]),
        _pooled([channels[1], *[channels[2]] * third]),
        nn.Sequential(*_pooled([channels[2], *[channels[3]] * fourth]), *_pooled([channels[3]] * (1 + fifth))),
    ]
    model = VGG(stem, stages, global_average_head(channels[-1], spec.classes), channels, (2, 2, 4))
    initialise_convolutions(model)
    return model


def _pooled(channels: Sequence[int]) -> nn.Sequential:
    """Return 3x3 convolutions from each number of channels to the next, and a pooling that halves height and width."""
    layers: list[nn.Module] = []
    for into, out in pairwise(channels):
        layers += [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))
