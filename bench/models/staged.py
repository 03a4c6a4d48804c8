"""What every network of the bench looks like."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

INPUT_SHAPE = (3, 32, 32)
"""Shape of one picture (channels, height, width) of every dataset of the bench."""


class StagedModel(nn.Module):
    """A network cut along its own architecture: ``head(stages(stem(inputs)))``.

    Methods slice networks by these parts (a depth is the first stages, a block of ProFL is one stage), and by
    channels: two models of one name at different rates have the same tensors, only smaller.

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


def global_average_head(channels: int, classes: int) -> nn.Sequential:
    """Average over height and width, then one linear layer: (batch, channels, h, w) -> (batch, classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
