"""A small Transformer for passages of text, character by character: the encoder of the ViT on other tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from profl.bench.models.spec import ModelSpec
from profl.bench.models.staged import StagedModel
from profl.bench.models.vit import Transformer, whole_heads

ALPHABET = 128
"""Codes of ASCII."""

LENGTH = 128
"""Characters of an example, as the dataset ``docstrings`` has them."""


def text_transformer(spec: ModelSpec) -> StagedModel:
    """Three stages of three encoder layers, of a width in whole heads of 16 channels, as `profl.bench.models.vit.vit`.

    No published network. Its examples are passages of 128 ASCII codes, int64.
    """
    channels = whole_heads(spec)
    model = Transformer(CharacterEmbedding(channels), channels, spec.classes)
    model.input_shape, model.input_dtype = (LENGTH,), torch.int64
    return model


class CharacterEmbedding(nn.Module):
    """Make a token of every character, and tell it its place by a learned vector: a picture of height 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(ALPHABET, channels)
        self.positions = nn.Parameter(torch.randn(1, channels, 1, LENGTH))

    def forward(self, codes: Tensor) -> Tensor:
        """Return tokens, shape (batch, channels, 1, characters), for the codes of characters (batch, characters)."""
        return self.characters(codes).transpose(1, 2).unsqueeze(2) + self.positions
