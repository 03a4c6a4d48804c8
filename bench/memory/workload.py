"""What can be measured: a training step, described so that a worker process can build and run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]

CATEGORIES = (
    "parameters",
    "gradients",
    "optimizer state",
    "buffers",
    "inputs",
    "activations",
    "workspace",
    "temporaries",
)
"""Every allocated byte is one of these.

parameters
    Of the module, trained or frozen.
gradients
    Of the parameters: what the optimizer is about to read.
optimizer state
    What optimizers keep from step to step.
buffers
    Of the module, the buckets in which its gradients are exchanged, and whatever else preparing leaves on the GPU.
inputs
    One batch, and whatever is allocated between two steps, or after an optimizer's step until the next forward pass.
activations
    The rest of the forward pass: saved for backward, or in flight. Whatever else a graph keeps for a later backward
    pass.
workspace
    Scratch memory that no tensor owns: of cuBLAS, cuDNN and single kernels.
temporaries
    The rest of backward and of the optimizer's step, and of preparing.
"""


class StepObserver(Protocol):
    """Told by a step as each of its phases begins, in this order."""

    def forward(self) -> None:
        """The forward pass begins."""

    def backward(self, loss: Tensor) -> None:
        """The forward pass has given ``loss``; the backward pass begins."""

    def optimizer(self) -> None:
        """Every gradient is there; the optimizer's step begins."""

    def end(self) -> None:
        """The step is over, and its gradients may be gone."""


class Unobserved:
    """A `StepObserver` that looks away."""

    def forward(self) -> None: ...
    def backward(self, loss: Tensor) -> None: ...
    def optimizer(self) -> None: ...
    def end(self) -> None: ...


@dataclass
class Prepared:
    """A workload ready to run.

    Parameters
    ----------
    module, optimizer, inputs
        Used to tell parameters, buffers, optimizer state and inputs apart; all on the GPU. Several optimizers are
        a list or tuple.
    step
        Runs one whole training step and tells the observer.
    """

    module: nn.Module
    optimizer: Optimizers
    inputs: tuple[Tensor, ...]
    step: Callable[[StepObserver], None]


def optimizers_of(optimizer: Optimizers) -> tuple[torch.optim.Optimizer, ...]:
    """Return one or several optimizers as a tuple."""
    return tuple(optimizer) if isinstance(optimizer, Sequence) else (optimizer,)


class Program(Protocol):
    """Any work that needs the GPU, not just a step to measure: a picklable value, defined in an importable module."""

    @property
    def key(self) -> str:
        """What to call it in an error message."""

    def run(self, device: torch.device, report: Callable[[object], None]) -> object:
        """Do the work on ``device``, leaving nothing there; ``report`` sends a picklable value to who waits for it."""


class Workload(Protocol):
    """A training step to measure: a picklable value, defined in an importable module."""

    @property
    def key(self) -> str:
        """Stable name; equal keys mean equal footprints."""

    def prepare(self, device: torch.device) -> Prepared:
        """Build everything on ``device``."""
