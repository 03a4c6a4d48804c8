"""ResNets for small pictures.

The stem is one 3x3 convolution without max-pooling, as usual for 32x32 pictures and as in ProFL's published code.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from profl.bench.models.spec import ModelSpec
from profl.bench.models.staged import StagedModel, global_average_head, initialise_convolutions


def resnet10_stride2(spec: ModelSpec) -> StagedModel:
    """Four stages of one basic block behind a stem of stride 2: a ninth of ResNet18's multiplications, cut alike.

    No published network: made to train in its place where memory is measured as that of another (``[measured_as]``).
    """
    return _resnet(spec, (1, 1, 1, 1), stem_stride=2)


def resnet18(spec: ModelSpec) -> StagedModel:
    """Four stages of two basic blocks (He et al., CVPR 2016)."""
    return _resnet(spec, (2, 2, 2, 2))


def resnet34(spec: ModelSpec) -> StagedModel:
    """Four stages of 3, 4, 6 and 3 basic blocks (He et al., CVPR 2016)."""
    return _resnet(spec, (3, 4, 6, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; its layers have the names of torchvision's.

    Not torchvision's own, as that brings PyTorch's compiler: a second in every process that builds a ResNet.

    Parameters
    ----------
    into, out
        Channels.
    stride
        Of the first convolution.
    downsample
        Makes the shortcut of the right shape; None where it is the input.
    """

    def __init__(self, into: int, out: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = downsample

    def forward(self, features: Tensor) -> Tensor:
        """Return features (batch, out, height / stride, width / stride) for (batch, into, height, width)."""
        added = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        added += features if self.downsample is None else self.downsample(features)
        return self.relu(added)


def _resnet(spec: ModelSpec, depths: Sequence[int], stem_stride: int = 1) -> StagedModel:
    channels = [spec.channels(1), *(spec.channels(2**stage) for stage in range(len(depths)))]
    strides = [1 if stage == 0 else 2 for stage in range(len(depths))]
    stem = nn.Sequential(
        nn.Conv2d(StagedModel.input_shape[0], channels[0], 3, stride=stem_stride, padding=1, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(inplace=True),
    )
    stages = [_stage(channels[stage], channels[stage + 1], strides[stage], depth) for stage, depth in enumerate(depths)]
    model = StagedModel(stem, stages, global_average_head(channels[-1], spec.classes), channels, strides)
    initialise_convolutions(model)
    return model


def _stage(in_channels: int, out_channels: int, stride: int, depth: int) -> nn.Sequential:
    downsample = None
    if stride != 1:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    first = BasicBlock(in_channels, out_channels, stride, downsample)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(depth - 1)))
