"""A network of my own that every method of the bench can train: a stem, two stages and a head, at any width."""

from torch import nn

from profl import StagedModel


def convolved(in_channels, out_channels, stride):
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class SmallNet(StagedModel):
    def __init__(self, spec):
        channels = [spec.channels(multiple) for multiple in (1, 2, 4)]
        stem = convolved(self.input_shape[0], channels[0], stride=1)
        stages = [convolved(channels[stage], channels[stage + 1], stride=2) for stage in range(2)]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], spec.classes))
        super().__init__(stem, stages, head, stage_channels=channels, stage_strides=(2, 2))
