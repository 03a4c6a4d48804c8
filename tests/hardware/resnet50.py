"""Steps of a torchvision ResNet50 on soft labels, as a profiler's published timeline of October 2023 shows them."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import resnet50

BATCH, CLASSES = 32, 1000


def build(device: torch.device):
    """Return module, optimizer, batches and step, as `profl.measure` takes them."""
    with torch.device("meta"):
        module = resnet50()
    module.to_empty(device=device)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    pictures = torch.zeros(BATCH, 3, 224, 224, device=device)
    labels = torch.zeros(BATCH, CLASSES, device=device)

    def step() -> None:
        optimizer.zero_grad()
        logits = module(pictures)  # which live on through the backward pass
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()

    return module, optimizer, (pictures, labels), step
