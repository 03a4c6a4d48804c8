"""Local training and testing, one screen each. The same step is trained and measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from profl.bench.cell import Recipe
from profl.bench.data import augment
from profl.bench.memory.workload import Prepared, StepObserver
from profl.bench.method import Task
from profl.bench.models import ModelSpec
from profl.bench.models.normalisation import batchnorms, keep_statistics

EVALUATION_BATCH = 256
"""Examples per batch when testing: nothing is kept for backward, so this is not what limits a device."""

SAMPLE_EXAMPLES = 512
"""How many training examples BatchNorm statistics are re-estimated on: thousands of pixels a channel suffice."""


def local_optimizer(task: Task, module: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return a fresh SGD over the parameters that train."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rate = recipe.learning_rate if task.learning_rate is None else task.learning_rate
    return torch.optim.SGD(trainable, lr=rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def train_step(
    task: Task,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    observer: StepObserver | None = None,
) -> Tensor:
    """Run one forward, backward and optimizer step; return the detached scalar loss.

    Parameters
    ----------
    observer
        Told as each phase begins, when memory is measured.
    """
    if observer:
        observer.forward()
    loss = task.loss(module, inputs, targets)
    if observer:
        observer.backward(loss)
    loss.backward()
    if observer:
        observer.optimizer()
    if task.max_gradient_norm is not None:
        nn.utils.clip_grad_norm_(module.parameters(), task.max_gradient_norm)
    optimizer.step()
    optimizer.zero_grad()
    if observer:
        observer.end()
    return loss.detach()


def train_locally(
    task: Task,
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    augmented: bool,
) -> float:
    """Train a device's task on its examples; return the mean loss per example over all epochs.

    Parameters
    ----------
    inputs, targets
        The device's examples: of the model's input dtype, (examples, *input_shape), and int64 (examples,), in
        host memory; only a batch at a time goes to the module's device.
    generator
        Decides order and augmentation; nothing else does.
    augmented
        Whether pictures are cropped and flipped at random.
    """
    optimizer = local_optimizer(task, module, recipe)
    device = _device(module)
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(recipe.local_epochs):
        order = torch.randperm(len(targets), generator=generator)
        for batch in order.split(recipe.batch_size):
            pictures = augment(inputs[batch], generator) if augmented else inputs[batch]
            # No name for the loss: it would lie on the device throughout the next step.
            mean = train_step(task, module, optimizer, pictures.to(device), targets[batch].to(device)).cpu()
            total += mean * len(batch)
    return float(total) / (recipe.local_epochs * len(targets))


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@torch.inference_mode()
def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy and the share classified correctly, with ``model`` in eval mode."""
    model.eval()
    loss, correct = 0.0, 0
    for pictures, labels in zip(inputs.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True):
        logits = model(pictures.to(_device(model))).cpu()
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(1) == labels).sum())
    mean = loss / len(targets)
    return (mean if math.isfinite(mean) else math.nan), correct / len(targets)


@torch.inference_mode()
def recalibrate_batchnorm(model: nn.Module, inputs: Tensor, batch_size: int) -> None:
    """Set every BatchNorm's running statistics to the plain mean over batches of ``inputs``; a static one gets some.

    Parameters
    ----------
    inputs
        Examples, shape (examples, *input_shape); what is left over of the last batch is not used, but where there is
        no full one.
    batch_size
        As in training: the variance within small batches is another than that within large ones.
    """
    norms = batchnorms(model)
    with _reset(norms):
        model.train()
        full = len(inputs) // batch_size * batch_size or len(inputs)
        for number, examples in enumerate(inputs[:full].split(batch_size), start=1):
            for norm in norms:
                norm.momentum = 1 / number  # momentum None would do the same, but read the number from the GPU
            model(examples.to(_device(model)))


def gradient_norm(task: Task, module: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int) -> float:
    """Return the 2-norm of the gradient of a task's mean loss with respect to what it trains.

    Parameters
    ----------
    module
        Loaded, in train mode: BatchNorm normalises by the batch, as in training.
    inputs, targets
        Examples, shapes (examples, *input_shape) and (examples,).
    batch_size
        As in training.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for some, labels in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
        loss = task.loss(module, some.to(_device(module)), labels.to(_device(module)))
        (loss * len(labels) / len(targets)).backward()
    norm = float(nn.utils.get_total_norm([value.grad for value in trained if value.grad is not None]))
    module.zero_grad()
    return norm


@contextmanager
def _reset(norms: list[_BatchNorm]) -> Iterator[None]:
    """Forget running statistics; give momenta back in the end."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        keep_statistics(norm)
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@dataclass(frozen=True)
class TrainingWorkload:
    """A task's local training step, as the memory room measures it.

    Parameters
    ----------
    scope
        Whose task it is: a method's name.
    model
        The full model.
    task, recipe
        What trains, and how. Batches are full ones, but every fifth is half as large, as the last of an epoch is
        smaller: memory that is cached in other sizes is what a tight budget fails at.
    """

    scope: str
    model: ModelSpec
    task: Task
    recipe: Recipe

    @property
    def key(self) -> str:
        """Name of the footprint: everything that decides its bytes."""
        model, recipe = self.model, self.recipe
        return (
            f"{self.scope}/{self.task.key} of {model.name} width {model.width}, {model.classes} classes, "
            f"batch {recipe.batch_size}, SGD momentum {recipe.momentum:g} weight decay {recipe.weight_decay:g}"
        ) + (", gradients clipped" if self.task.max_gradient_norm is not None else "")

    def prepare(self, device: torch.device) -> Prepared:
        """Build module, optimizer and one batch on ``device``; the values do not matter, only their sizes."""
        with torch.device("meta"):
            module = self.task.build()
        module.to_empty(device=device)
        takes = self.model.skeleton()
        inputs = torch.zeros(self.recipe.batch_size, *takes.input_shape, dtype=takes.input_dtype, device=device)
        targets = torch.zeros(self.recipe.batch_size, dtype=torch.int64, device=device)
        optimizer = local_optimizer(self.task, module, self.recipe)

        part = math.ceil(self.recipe.batch_size / 2)
        sizes = itertools.cycle([self.recipe.batch_size] * 4 + [part])

        def step(observer: StepObserver) -> None:
            size = next(sizes)
            train_step(self.task, module, optimizer, inputs[:size], targets[:size], observer)

        return Prepared(module, optimizer, (inputs, targets), step)
