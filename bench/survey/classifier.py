"""A classifier of torchvision, trained as most people would: the step that the studies measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from profl.bench.errors import InputError, unknown
from profl.bench.memory.workload import Prepared, StepObserver

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PRECISIONS = ("float32", "float16", "bfloat16")

IMAGE_SIDES = {"inception_v3": 299}
"""The side of the pictures, in pixels, of a model that cannot train on those of `USUAL_IMAGE_SIDE`."""

USUAL_IMAGE_SIDE = 224


@cache
def known_models() -> frozenset[str]:
    """Return the names of torchvision's classifiers, those of `torchvision.models` itself."""
    import torchvision

    return frozenset(torchvision.models.list_models(torchvision.models))


@dataclass(frozen=True)
class Classifier:
    """A step of SGD with momentum on one full batch; a workload for a `profl.bench.memory.Prober`.

    Parameters
    ----------
    name
        As torchvision has it; with its own 1000 classes, and with the classifiers on the way that some have.
    precision
        ``float32``, or ``float16`` or ``bfloat16``: parameters stay float32, what can runs in the other under
        autocast. For float16 a ``GradScaler`` scales the loss.
    batch_size
        Pictures in a batch.
    image_size
        Their side in pixels.

    Raises
    ------
    InputError
        If one of these is unknown, or no size.
    """

    name: str
    precision: str = "float32"
    batch_size: int = 8
    image_size: int = USUAL_IMAGE_SIDE

    def __post_init__(self) -> None:
        if self.name not in known_models():
            unknown("model", self.name, known_models())
        if self.precision not in PRECISIONS:
            unknown("precision", self.precision, PRECISIONS)
        for what, size in (("batch size", self.batch_size), ("image size", self.image_size)):
            if not 1 <= size <= 10**6:
                raise InputError(f"{what} {size} cannot be trained: give 1 to 1,000,000")

    @property
    def key(self) -> str:
        """Name of the footprint: everything that decides its bytes."""
        return f"{self.name}, {self.precision}, batch {self.batch_size} of side {self.image_size}, SGD momentum 0.9"

    def prepare(self, device: torch.device) -> Prepared:
        """Build module, optimizer and one batch on ``device``; no weights are drawn, as only sizes matter."""
        import torch
        from torch.nn import functional

        module = _without_weights(self.name, device)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
        scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")
        inputs = torch.zeros(self.batch_size, 3, self.image_size, self.image_size, device=device)
        targets = torch.zeros(self.batch_size, dtype=torch.int64, device=device)
        reduced = self.precision != "float32"

        def loss() -> Tensor:
            with torch.autocast(device.type, getattr(torch, self.precision)) if reduced else nullcontext():
                outputs = module(inputs)
                several = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
                first, *others = (functional.cross_entropy(logits, targets) for logits in several)
                return sum(others, first)

        def step(observer: StepObserver) -> None:
            observer.forward()
            scaled = scaler.scale(loss())
            observer.backward(scaled)
            scaled.backward()
            observer.optimizer()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            observer.end()

        return Prepared(module, optimizer, (inputs, targets), step)


def _without_weights(name: str, device: torch.device) -> nn.Module:
    import torchvision

    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with _parameters_without_values():
        module = torchvision.models.get_model(name, **options)
    buffers = dict(module.named_buffers())
    module.to_empty(device=device)
    for path, buffer in module.named_buffers():
        buffer.copy_(buffers[path])  # some are indices: they must be real where kernels run
    return module


@contextmanager
def _parameters_without_values() -> Iterator[None]:
    """Draw no weights, which takes seconds. On ``torch.device("meta")`` RegNet could not compute its widths."""
    from torch import nn

    def without_value(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        return parameter if parameter is None else nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = nn.modules.module.register_module_parameter_registration_hook(without_value)
    try:
        yield
    finally:
        hook.remove()
