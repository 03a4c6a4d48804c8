"""One training step with defects to plant in it, and with refactorings that change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from profl.bench.memory.workload import Prepared, StepObserver


class Network(nn.Module):
    """A frozen stem, two convolutions and a head."""

    def __init__(self, plan: str) -> None:
        super().__init__()
        channels = 48 if plan == "wider proxy" else 32
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first = nn.Conv2d(32, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)
        self.plan = plan
        if plan == "history buffer":
            self.second.register_buffer("history", torch.zeros(512, 512))
        if plan != "frozen block trains":
            self.stem.requires_grad_(False)
        if plan == "norms by name":
            self.add_module("identity", nn.Identity())

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        hidden = self.rectified(self.first(hidden))
        if self.plan == "extra saved activation":
            hidden = hidden * torch.sigmoid(hidden)
        if self.plan == "fp32 copy":
            hidden = hidden.double().float()
        hidden = self.rectified(self.second(hidden))
        if self.plan == "mean over both axes at once":
            return self.head(hidden.mean((2, 3)))
        return self.head(functional.adaptive_avg_pool2d(hidden, 1).flatten(1))

    def rectified(self, hidden: Tensor) -> Tensor:
        if self.plan == "rectifier out of place":
            return functional.relu(hidden)
        return hidden.relu_() if self.plan == "in-place method" else functional.relu(hidden, inplace=True)


@dataclass(frozen=True)
class Planted:
    """The step as ``plan`` changes it; ``""`` is the original."""

    plan: str = ""

    @property
    def key(self) -> str:
        return f"planted {self.plan}"

    def prepare(self, device: torch.device) -> Prepared:
        torch.manual_seed(1 if self.plan == "another seed" else 0)
        module = Network(self.plan).to(device)
        batch = 24 if self.plan == "larger batch" else 16
        inputs = torch.zeros(batch, 3, 32, 32, device=device)
        targets = torch.zeros(batch, dtype=torch.int64, device=device)
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = self._optimizer(module, trainable)
        kept: list[Any] = []

        def step(observer: StepObserver) -> None:
            observer.forward()
            pictures = inputs
            if self.plan == "leaked batch":
                kept.append(torch.zeros_like(inputs))
            loss = self._loss(module, pictures, targets)
            observer.backward(loss)
            loss.backward(retain_graph=self.plan == "graph kept alive")
            if self.plan == "graph kept alive":
                kept.append(loss)
            observer.optimizer()
            optimizer.step()
            optimizer.zero_grad(set_to_none=self.plan != "gradients kept alive")
            observer.end()

        return Prepared(module, optimizer, (inputs, targets), step)

    def _loss(self, module: Network, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = module(inputs)
        if self.plan == "loss by hand":
            return functional.nll_loss(functional.log_softmax(logits, 1), targets)
        if self.plan == "loss as a module":
            return nn.CrossEntropyLoss()(logits, targets)
        return functional.cross_entropy(logits, targets)

    def _optimizer(self, module: Network, trainable: list[nn.Parameter]) -> torch.optim.Optimizer:
        if self.plan == "another optimizer":
            return torch.optim.Adam(trainable)
        if self.plan == "state for frozen parameters":
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
            optimizer.state[module.stem.weight]["momentum_buffer"] = torch.zeros_like(module.stem.weight)
            return optimizer
        if self.plan == "parameter groups":
            groups = [{"params": trainable[:2]}, {"params": trainable[2:]}]
            return torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        if self.plan == "frozen parameters passed too":
            return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        rate = 0.2 if self.plan == "another learning rate" else 0.1
        return torch.optim.SGD(trainable, lr=rate, momentum=0.9)
