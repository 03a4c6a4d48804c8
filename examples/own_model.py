"""How much GPU memory does a training step of my own need? Runs without a GPU; draws memory.png."""

import torch
from torch import nn

from profl import measure


def build(device):
    module = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(32 * 8 * 8, 10)
    ).to(device)
    optimizer = torch.optim.AdamW(module.parameters())
    inputs = torch.zeros(16, 3, 64, 64, device=device)
    targets = torch.zeros(16, dtype=torch.int64, device=device)

    def step():
        nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return module, optimizer, (inputs, targets), step


if __name__ == "__main__":
    footprint = measure(build, "virtual:t4")
    print(footprint)  # peaks, what they consist of, and what would help
    print(footprint.frame())  # every byte at the peak by phase, category, module; saved for backward or transient
    footprint.plot("memory.png")
    footprint.write_trace("memory.json")  # for Perfetto or chrome://tracing
