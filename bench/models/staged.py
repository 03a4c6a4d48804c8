"""What every network of the bench looks like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from profl.bench.errors import InputError


class StagedModel(nn.Module):
    """A network cut along its own architecture: ``head(stages(stem(inputs)))``.

    Methods slice networks by these parts (a depth is the first stages, a block of ProFL is one stage), and by
    channels: two models of one name at different rates have the same tensors, only smaller, as every width comes from
    ``ModelSpec.channels``. What else methods and harness need to know of a network it states itself; where the
    defaults below are wrong for it, its class is a subclass that says so.

    Parameters
    ----------
    stem, head
        Modules in front of the first and behind the last stage.
    stages
        The stages, front to back.
    stage_channels
        Channels that go into the first stage, then those that leave each stage: one more entry than stages.
    stage_strides
        By how much each stage divides height and width.
    """

    input_shape: tuple[int, ...] = (3, 32, 32)
    """Shape of one example; of a picture (channels, height, width)."""
    input_dtype: torch.dtype = torch.float32
    """Type of the examples."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        head: nn.Module,
        stage_channels: Sequence[int],
        stage_strides: Sequence[int],
    ) -> None:
        super().__init__()
        if len(stage_channels) != len(stages) + 1 or len(stage_strides) != len(stages):
            raise ValueError(f"{len(stages)} stages need as many strides and one more channel count")
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.stage_channels = tuple(stage_channels)
        self.stage_strides = tuple(stage_strides)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (batch, classes), for ``inputs`` of shape (batch, channels, height, width)."""
        features = self.stem(inputs)
        for stage in self.stages:
            features = stage(features)
        return self.head(features)

    @property
    def classifier_name(self) -> str:
        """Name of the layer that gives the logits, a row of its weight for each class: the head's last linear one."""
        linear = [name for name, part in self.head.named_modules(prefix="head") if isinstance(part, nn.Linear)]
        if not linear:
            raise InputError(f"the head of {type(self).__name__} has no linear layer: override classifier_name")
        return linear[-1]

    def stand_in(self, stage: int) -> nn.Module:
        """Return a cheap layer, with initial values of its own, that takes and gives features of a stage's shapes.

        ProFL trains it in the stage's place (its *basic layer*). By default it is that of the published code: one 3x3
        convolution with the stage's stride, without bias, BatchNorm or activation.

        Parameters
        ----------
        stage
            Which stage, from 0.
        """
        return bare_convolution(self.stage_channels[stage], self.stage_channels[stage + 1], self.stage_strides[stage])


def global_average_head(channels: int, classes: int) -> nn.Sequential:
    """Average over height and width, then one linear layer: (batch, channels, h, w) -> (batch, classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def bare_convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """One 3x3 convolution without bias, padded so that the stride alone decides height and width."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    initialise_convolutions(convolution)
    return convolution


def initialise_convolutions(module: nn.Module) -> None:
    """Draw the weights of every convolution by Kaiming, fan-out; its bias becomes 0.

    Not on 'meta': there is nothing to draw, and PyTorch would do so by way of its compiler, a second to import.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_meta:
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
