"""Steps of a ResNet18 for pictures of 32x32, as the report of a user of mmpretrain describes them."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import resnet18

BATCH, CLASSES = 16, 10


def build(device: torch.device):
    """Return module, optimizer, batches and step, as `profl.measure` takes them."""
    module = resnet18(num_classes=CLASSES)
    module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    module = module.to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    pictures = torch.zeros(BATCH, 3, 32, 32, device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)

    def step() -> None:
        logits = module(pictures)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=False)  # the default of 2022
        loss.backward()
        optimizer.step()

    return module, optimizer, (pictures, labels), step
