"""Attention written out, from the start of a process to the end of its backward pass, as it was traced on a card."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BATCH, PLACES, FEATURES = 8, 4096, 16


def softmax(scores: Tensor) -> Tensor:
    largest = torch.max(scores, dim=-1, keepdim=True)[0]
    powers = torch.exp(scores - largest)
    return powers / torch.sum(powers, dim=-1, keepdim=True)


class Attention(nn.Module):
    """Query, key and value are the parameters; there is no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Parameter(torch.empty(BATCH, PLACES, FEATURES)) for _ in range(3))

    def forward(self) -> Tensor:
        scores = torch.einsum("bqf,bkf->bqk", self.query, self.key)
        scores = scores / math.sqrt(FEATURES)
        weights = softmax(scores)
        return torch.einsum("bqk,bkf->bqf", weights, self.value)


def build(device: torch.device):
    """Return module, optimizer, batches and step, as `profl.measure` takes them; the optimizer never steps."""
    with torch.device(device):
        module = Attention()

    def step() -> None:
        mixed = module()
        loss = mixed.sum()
        loss.backward()

    return module, torch.optim.SGD(module.parameters()), (), step
