"""MobileNetV2 for small pictures, built from torchvision's inverted residuals.

Stem and first widening do not stride, as usual for 32x32 pictures: ImageNet's strides would leave one pixel. An
inverted residual has six times as many channels inside as go into it at every rate, as at every published width
multiplier, and its depthwise convolution a group for each: a narrower network's are the leading ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

from profl.bench.models.spec import ModelSpec
from profl.bench.models.staged import StagedModel, global_average_head, initialise_convolutions

PUBLISHED_WIDTH = 32
EXPANSION = 6


class MobileNet(StagedModel):
    """A network of depthwise-separable convolutions."""

    def stand_in(self, stage: int) -> nn.Module:
        """Return a depthwise 3x3 convolution with the stage's stride and a pointwise one, both bare.

        Our choice, as ProFL has no MobileNet: a whole 3x3 convolution, as for a ResNet, would be nearly as large as the
        last stage itself.
        """
        into, out = self.stage_channels[stage], self.stage_channels[stage + 1]
        depthwise = nn.Conv2d(into, into, 3, self.stage_strides[stage], padding=1, groups=into, bias=False)
        layer = nn.Sequential(depthwise, nn.Conv2d(into, out, 1, bias=False))
        initialise_convolutions(layer)
        return layer


def mobilenet_v2(spec: ModelSpec) -> StagedModel:
    """Four stages of 3, 3, 7 and 4 inverted residuals (Sandler et al., CVPR 2018); the published width is 32.

    A stage ends where the picture is halved next (our cut); the 1x1 convolution that closes the features belongs to the
    last. Dropout in front of the classifier is left out, and no width is rounded to a multiple of 8.
    """

    def channels(published: int) -> int:
        return spec.channels(Fraction(published, PUBLISHED_WIDTH))

    at_edges = [channels(published) for published in (32, 24, 32, 96, 1280)]
    stem = _convolved(StagedModel.input_shape[0], at_edges[0], 3)
    unexpanded = InvertedResidual(at_edges[0], channels(16), stride=1, expand_ratio=1)
    stages = [
        nn.Sequential(unexpanded, *_residuals(channels(16), [channels(24)] * 2, stride=1)),
        nn.Sequential(*_residuals(channels(24), [channels(32)] * 3, stride=2)),
        nn.Sequential(*_residuals(channels(32), [channels(64)] * 4 + [channels(96)] * 3, stride=2)),
        nn.Sequential(
            *_residuals(channels(96), [channels(160)] * 3 + [channels(320)], stride=2),
            _convolved(channels(320), at_edges[-1], 1),
        ),
    ]
    model = MobileNet(stem, stages, global_average_head(at_edges[-1], spec.classes), at_edges, (1, 2, 2, 2))
    initialise_convolutions(model)
    return model


def _residuals(into: int, outputs: Sequence[int], stride: int) -> list[nn.Module]:
    """Return an inverted residual for each number of output channels; the first strides."""
    inputs, strides = [into, *outputs[:-1]], [stride, *[1] * (len(outputs) - 1)]
    return [InvertedResidual(*shape, EXPANSION) for shape in zip(inputs, outputs, strides, strict=True)]


def _convolved(into: int, out: int, kernel_size: int) -> nn.Module:
    return Conv2dNormActivation(into, out, kernel_size, activation_layer=nn.ReLU6)
