"""Training steps that tell nobody of their phases; the worker process imports this module too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from profl.bench.memory import recorded
from profl.bench.memory.workload import Prepared, StepObserver, Workload

Built = tuple[nn.Module, torch.optim.Optimizer, Any, Callable[[], object]]
Build = Callable[[torch.device], Built]

FEATURES = (512, 384, 256, 128, 64)
"""Of the chain's layers, no two of one size."""


def _descending(module: nn.Module, inputs: Tensor, loss_of: Callable[[], Tensor], passes: int = 1) -> Built:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        for _ in range(passes):
            loss_of().backward()
        optimizer.step()
        optimizer.zero_grad()

    return module, optimizer, {"pictures": [inputs]}, step


def chain(device: torch.device, passes: int = 1) -> Built:
    layers = (nn.Linear(*sizes, bias=False) for sizes in pairwise(FEATURES))
    module = nn.Sequential(*layers).to(device)
    inputs = torch.zeros(33, FEATURES[0], device=device)
    return _descending(module, inputs, lambda: module(inputs).sum(), passes)


class Residual(nn.Module):
    """Where gradients meet, autograd adds them in place, if nobody else holds on to them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(16, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.stem(pictures)
        for block in self.blocks:
            features = features + functional.relu(block(features))
        return self.head(features.mean((2, 3)))


def residual(device: torch.device) -> Built:
    module, inputs = Residual().to(device), torch.zeros(8, 3, 16, 16, device=device)
    return _descending(module, inputs, lambda: module(inputs).logsumexp(1).sum())


def transformer(device: torch.device) -> Built:
    module = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).to(device)
    inputs = torch.zeros(4, 32, 64, device=device)

    def loss() -> Tensor:
        # Its cache forgets copies in the order of their addresses in host memory.
        with torch.autocast("cuda", torch.float16, cache_enabled=False):
            return module(inputs).float().sum()

    return _descending(module, inputs, loss)


def checkpointed(device: torch.device, use_reentrant: bool) -> Built:
    body = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.GELU()) for _ in range(3)))
    module = nn.Sequential(nn.Linear(64, 256), body, nn.Linear(256, 10)).to(device)
    inputs = torch.zeros(64, 64, device=device)

    def loss() -> Tensor:
        features = checkpoint(body, module[0](inputs), use_reentrant=use_reentrant)
        return module[2](features).sum()

    return _descending(module, inputs, loss)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:
        context.save_for_backward(features)
        return features * 2

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (features,) = context.saved_tensors
        return gradient * 2 + features * 0


class Doubling(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return _Doubled.apply(features)


def custom_function(device: torch.device) -> Built:
    module = nn.Sequential(nn.Linear(64, 64), Doubling(), nn.Linear(64, 64)).to(device)
    inputs = torch.zeros(256, 64, device=device)
    return _descending(module, inputs, lambda: module(inputs).sum())


def gradient_penalty(device: torch.device) -> Built:
    module = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 1)).to(device)
    inputs = torch.zeros(64, 64, device=device, requires_grad=True)

    def loss() -> Tensor:
        outputs = module(inputs).sum()
        (gradient,) = torch.autograd.grad(outputs=outputs, inputs=inputs, create_graph=True)
        return outputs + gradient.square().sum()

    return _descending(module, inputs, loss)


def forward_only(device: torch.device) -> Built:
    module, optimizer, inputs, _ = chain(device)
    return module, optimizer, inputs, lambda: module(inputs["pictures"][0])


def _yielding() -> Iterator[None]:
    yield


async def _awaiting() -> None: ...


def returning(device: torch.device, what: str) -> Any:
    """Return what is no training step, in one of many ways."""
    module, optimizer, inputs, step = chain(device)
    ways: dict[str, Any] = {
        "three": (module, optimizer, inputs),
        "a list": [module, optimizer, inputs, step],
        "nothing": None,
        "a generator": (part for part in chain(device)),
        "swapped": (optimizer, module, inputs, step),
        "mixed modules": ([module, "head"], optimizer, inputs, step),
        "a name": (module, "sgd", inputs, step),
        "no optimizer": (module, None, inputs, step),
        "a step that ran": (module, optimizer, inputs, step()),
        "a step that yields": (module, optimizer, inputs, _yielding),
        "a step to await": (module, optimizer, inputs, _awaiting),
        "a step of one batch": (module, optimizer, inputs, lambda batch: step()),
    }
    return ways[what]


def loss_of_many_numbers(device: torch.device) -> Built:
    module = nn.Linear(64, 64).to(device)
    inputs = torch.zeros(8, 64, device=device)
    return _descending(module, inputs, lambda: module(inputs))


def reads_a_number(device: torch.device) -> Built:
    module, optimizer, inputs, _ = chain(device)

    def step() -> None:
        loss = module(inputs["pictures"][0]).sum()
        if loss.item() < 1:
            loss.backward()
        optimizer.step()

    return module, optimizer, inputs, step


class _Deaf:
    def forward(self) -> None: ...
    def backward(self, loss: Tensor) -> None: ...
    def optimizer(self) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True)
class BeforeAttribution:
    """Three steps of a workload that run before its module is known: nothing is stamped or annotated yet."""

    workload: Workload

    @property
    def key(self) -> str:
        return f"before attribution, {self.workload.key}"

    def prepare(self, device: torch.device) -> Prepared:
        prepared = self.workload.prepare(device)
        for _ in range(3):
            prepared.step(_Deaf())

        def nothing(observer: StepObserver) -> None:
            observer.forward()
            observer.backward(torch.zeros(()))
            observer.optimizer()
            observer.end()

        return Prepared(prepared.module, prepared.optimizer, prepared.inputs, nothing)


@dataclass(frozen=True)
class RecordedInPlace:
    """Runs ``build`` as a program with a GPU of its own would: two steps, and the third is recorded into ``folder``."""

    build: Build
    folder: Path

    @property
    def key(self) -> str:
        return f"recorded in place, {self.build.__name__}"

    def prepare(self, device: torch.device) -> Prepared:
        module, optimizer, inputs, train_step = self.build(device)
        train_step()
        train_step()
        with recorded(module, optimizer, inputs, key="third step") as recording:
            train_step()
        (self.folder / "allocated").write_text(str(torch.cuda.max_memory_allocated(device)))
        recording.write_snapshot(self.folder / "snapshot.pickle")
        recording.footprint.write_trace(self.folder / "trace.json")
        recording.footprint.frame().to_csv(self.folder / "frame.csv", index=False)
        module.cpu()
        try:
            with recorded(module, optimizer):
                pass
        except ValueError as error:
            (self.folder / "error").write_text(str(error))
        return Prepared(module, optimizer, (), lambda observer: None)
