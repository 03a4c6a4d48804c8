"""Workloads that these tests measure; the worker process imports this module too."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from profl.bench.memory.workload import Prepared, StepObserver


class _Keyed:
    @property
    def key(self) -> str:
        return repr(self)


def train(observer: StepObserver, optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor]) -> None:
    """Run one step, telling ``observer`` of its phases."""
    observer.forward()
    loss = loss_of()
    observer.backward(loss)
    loss.backward()
    observer.optimizer()
    optimizer.step()
    optimizer.zero_grad()
    observer.end()


def classify(module: nn.Module, inputs: Tensor, targets: Tensor, momentum: float = 0.9) -> Prepared:
    """Return a step of SGD on the parameters that train."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1, momentum=momentum)

    def step(observer: StepObserver) -> None:
        train(observer, optimizer, lambda: functional.cross_entropy(module(inputs), targets))

    return Prepared(module, optimizer, (inputs, targets), step)


@dataclass(frozen=True)
class ResNet18(_Keyed):
    """ResNet18 with the 3x3 stem for small pictures and 10 classes; its first stages may be frozen."""

    batch_size: int = 128
    channels_last: bool = False
    frozen_stages: int = 0

    def prepare(self, device: torch.device) -> Prepared:
        import torchvision  # two more seconds in a worker that measures something else

        with torch.device("meta"):
            module = torchvision.models.resnet18(num_classes=10)
            module.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            module.maxpool = nn.Identity()
        stages = [nn.Sequential(module.conv1, module.bn1, module.layer1), module.layer2, module.layer3]
        for stage in stages[: self.frozen_stages]:
            stage.requires_grad_(False)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        module.to_empty(device=device).to(memory_format=layout)
        inputs = torch.empty(self.batch_size, 3, 32, 32, device=device).to(memory_format=layout)
        return classify(module, inputs, torch.zeros(self.batch_size, dtype=torch.int64, device=device))


@dataclass(frozen=True)
class Linear(_Keyed):
    """One fully connected layer, and a buffer."""

    features: int = 1024
    batch_size: int = 256

    def prepare(self, device: torch.device) -> Prepared:
        module = nn.Linear(self.features, 10, device=device)
        module.register_buffer("counts", torch.zeros(100, device=device))
        inputs = torch.zeros(self.batch_size, self.features, device=device)
        return classify(module, inputs, torch.zeros(self.batch_size, dtype=torch.int64, device=device))


@dataclass(frozen=True)
class FreshBatches(_Keyed):
    """A layer trained on a batch that comes to the GPU with every step."""

    features: ClassVar[int] = 2048
    batch_size: ClassVar[int] = 512

    def prepare(self, device: torch.device) -> Prepared:
        module = nn.Linear(self.features, 1, device=device)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

        def step(observer: StepObserver) -> None:
            inputs = torch.zeros(self.batch_size, self.features, device=device)
            train(observer, optimizer, lambda: module(inputs).sum())

        return Prepared(module, optimizer, (), step)


@dataclass(frozen=True)
class Renewed(_Keyed):
    """A layer whose parameters move to other memory in every step."""

    def prepare(self, device: torch.device) -> Prepared:
        module = nn.Linear(1024, 10, device=device)
        inputs = torch.zeros(64, 1024, device=device)
        prepared = classify(module, inputs, torch.zeros(64, dtype=torch.int64, device=device))

        def step(observer: StepObserver) -> None:
            prepared.step(Renewing(observer, module))

        return replace(prepared, step=step)


@dataclass(frozen=True)
class Renewing:
    """Gives the parameters other memory before it tells ``observer`` that the step is over."""

    observer: StepObserver
    module: nn.Module

    def __getattr__(self, phase: str) -> Any:
        return getattr(self.observer, phase)

    def end(self) -> None:
        for parameter in self.module.parameters():
            parameter.data = parameter.data.clone()
        self.observer.end()


@dataclass(frozen=True)
class Convolution(_Keyed):
    """One convolution, for which cuDNN has faster plans with a workspace and slower ones without."""

    def prepare(self, device: torch.device) -> Prepared:
        module = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, device=device), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        inputs = torch.zeros(128, 64, 32, 32, device=device, requires_grad=True)
        return classify(module, inputs, torch.zeros(128, dtype=torch.int64, device=device))


_kept: list[Tensor] = []


@dataclass(frozen=True)
class Faulty(_Keyed):
    """A workload that goes wrong in the way named ``fault``."""

    fault: str

    def __setstate__(self, state: dict[str, str]) -> None:
        object.__setattr__(self, "fault", state["fault"])
        if self.fault == "cannot be loaded":
            raise ModuleNotFoundError("No module named 'elsewhere'")
        if self.fault == "exits as it is loaded":
            sys.exit("loaded")

    def prepare(self, device: torch.device) -> Prepared:
        match self.fault:
            case "dies without a word":
                os.kill(os.getpid(), signal.SIGKILL)
            case "dies":
                os.write(2, b"these are my last words\n")
                os.kill(os.getpid(), signal.SIGKILL)
            case "raises":
                raise ZeroDivisionError("of my own making")
            case "exits":
                sys.exit(3)
            case "keeps a tensor":
                _kept.append(torch.zeros(1000, device=device))
            case "is larger than the GPU":
                torch.empty(1 << 40, dtype=torch.uint8, device=device)
        prepared = Linear().prepare(device)
        if self.fault == "does not tell":
            prepared.step = lambda observer: observer.forward()
        return prepared


class _Table(nn.Module):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(64, 10, device=device))

    def forward(self, places: Tensor) -> Tensor:
        return self.rows[places]


@dataclass(frozen=True)
class Lookup(_Keyed):
    """Rows of a table, looked up by index: backward sorts the indices, by a library that asks what GPU it is on."""

    batch_size: int = 256

    def prepare(self, device: torch.device) -> Prepared:
        places = torch.zeros(self.batch_size, dtype=torch.int64, device=device)
        return classify(_Table(device), places, places)
