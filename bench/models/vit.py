"""A Vision Transformer for small pictures.

Sizes, initial values and the order of layers are those of Lee, Lee and Song (*Vision Transformer for Small-Size
Datasets*, arXiv 2112.13492) and their repository ``aanna0701/SPT_LSA_ViT``: patches of 4x4 pixels, nine encoder
layers, 192 channels in twelve heads, queries, keys and values without bias. Two things differ: the mean of all tokens
is classified and no class token (Beyer, Zhai and Kolesnikov, arXiv 2205.01580, find it no worse), so that features are
a picture wherever methods cut; and there is no stochastic depth.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from profl.bench.models.spec import ModelSpec
from profl.bench.models.staged import StagedModel

PATCH_SIDE = 4
HEAD_CHANNELS = 16
MLP_RATIO = 2
STAGES, LAYERS_OF_A_STAGE = 3, 3


class Transformer(StagedModel):
    """A network whose stages are encoder layers: features are tokens, laid out as the picture they were cut from.

    Parameters
    ----------
    stem
        Makes the tokens.
    channels
        Of a token.
    classes
        Number of classes.
    """

    def __init__(self, stem: nn.Module, channels: int, classes: int) -> None:
        from torchvision.models.convnext import LayerNorm2d  # takes a second, and others import what is here

        stages = [EncoderStage(*(EncoderLayer(channels) for _ in range(LAYERS_OF_A_STAGE))) for _ in range(STAGES)]
        head = nn.Sequential(
            LayerNorm2d(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), initialised_linear(channels, classes)
        )
        super().__init__(stem, stages, head, [channels] * (STAGES + 1), [1] * STAGES)

    def stand_in(self, stage: int) -> nn.Module:
        """Return one encoder layer for the three of a stage (our choice; ProFL's for a ViT is not published)."""
        return EncoderStage(EncoderLayer(self.stage_channels[stage]))


def vit(spec: ModelSpec) -> StagedModel:
    """Three stages of three encoder layers each (our cut); the published width is 192.

    The width is that of a token and consists of whole heads of 16 channels, rounded up: a narrower network has the
    leading heads, at least one.
    """
    channels = whole_heads(spec)
    return Transformer(PatchEmbedding(channels), channels, spec.classes)


def whole_heads(spec: ModelSpec) -> int:
    """Return the channels of a token: the model's width at its rate, in whole heads of 16, rounded up."""
    return HEAD_CHANNELS * spec.channels(Fraction(1, HEAD_CHANNELS))


class PatchEmbedding(nn.Module):
    """Make a token of every patch, and tell it its place by a learned vector."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        depth, height, width = StagedModel.input_shape
        self.projection = nn.Conv2d(depth, channels, PATCH_SIDE, stride=PATCH_SIDE)
        nn.init.xavier_normal_(self.projection.weight.flatten(1))  # it is a linear layer on the pixels of a patch
        nn.init.zeros_(self.projection.get_parameter("bias"))
        self.positions = nn.Parameter(torch.randn(1, channels, height // PATCH_SIDE, width // PATCH_SIDE))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return tokens, shape (batch, channels, height / 4, width / 4), for pictures (batch, 3, height, width)."""
        return self.projection(pictures) + self.positions


class EncoderStage(nn.Sequential):
    """Encoder layers on tokens that are laid out as a picture."""

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, (batch, channels, height, width)."""
        tokens = super().forward(features.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, features.shape[2:])


class EncoderLayer(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and added to what goes into it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = Attention(channels)
        self.perceptron_norm = nn.LayerNorm(channels)
        self.perceptron = nn.Sequential(
            initialised_linear(channels, MLP_RATIO * channels),
            nn.GELU(),
            initialised_linear(MLP_RATIO * channels, channels),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape, (batch, tokens, channels)."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        return tokens + self.perceptron(self.perceptron_norm(tokens))


class Attention(nn.Module):
    """Self-attention of heads of 16 channels.

    Queries, keys and values are layers of their own: the leading channels of each are then the leading heads, which
    those of one layer for all three are not.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (initialised_linear(channels, channels, bias=False) for _ in range(3))
        self.output = initialised_linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape, (batch, tokens, channels)."""
        heads = [
            part(tokens).unflatten(2, (-1, HEAD_CHANNELS)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        return self.output(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def initialised_linear(into: int, out: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer with Xavier's normal weights and a bias of 0."""
    layer = nn.Linear(into, out, bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
