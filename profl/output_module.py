"""What stands in for the blocks that are not there: one basic layer each, in front of the model's head."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from profl.bench.models import StagedModel

BasicLayer = Callable[[StagedModel, int], nn.Module]
"""Makes the stand-in for one stage (index from 0) of a freshly built model, with its own initial values."""


def basic_convolution(model: StagedModel, stage: int) -> nn.Module:
    """Return one 3x3 convolution with the stage's stride and its channels in and out.

    No bias, no BatchNorm and no activation [code]. The stride is the stage's own: 2 in a ResNet's later
    stages, as in the published code. Initial values are Kaiming fan-out like the network's other
    convolutions [default].
    """
    into, out = model.stage_channels[stage], model.stage_channels[stage + 1]
    layer = nn.Conv2d(into, out, 3, stride=model.stage_strides[stage], padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


BASIC_LAYERS: Mapping[str, BasicLayer] = {}
"""Models, by name, whose blocks need another stand-in than a convolution."""


def basic_layer(name: str, model: StagedModel, stage: int) -> nn.Module:
    """Return the basic layer that the model called ``name`` uses in place of a stage (index from 0)."""
    return BASIC_LAYERS.get(name, basic_convolution)(model, stage)
