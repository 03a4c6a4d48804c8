"""Local training and testing, one screen each. The same step is trained and measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from profl.bench.cell import Recipe
from profl.bench.data import augment
from profl.bench.memory.workload import Prepared, StepObserver, Unobserved
from profl.bench.method import Task
from profl.bench.models import ModelSpec
from profl.bench.models.normalisation import batchnorms, keep_statistics
from profl.bench.technique import PLAIN, Technique

EVALUATION_BATCH = 256
"""Examples per batch when testing: nothing is kept for backward, so this is not what limits a device."""

SAMPLE_EXAMPLES = 512
"""How many training examples BatchNorm statistics are re-estimated on: thousands of pixels a channel suffice."""


class LocalStep:
    """A task's local training step, with what lasts from one to the next: the optimizer and the scale of the loss.

    Parameters
    ----------
    task
        What trains.
    module
        As the task builds it, on the device where it trains.
    recipe
        Decides the optimizer: a fresh SGD over the parameters that train.
    technique
        How memory is saved.
    """

    def __init__(self, task: Task, module: nn.Module, recipe: Recipe, technique: Technique = PLAIN) -> None:
        self.task, self.module, self.technique = task, module, technique
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        rate = recipe.learning_rate if task.learning_rate is None else task.learning_rate
        new = technique.optimizer()
        self.optimizer = new(trained, lr=rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        self._device = _device(module)
        # Where there are no values, as when operations are counted, none overflows.
        scaled = technique.scales_loss and self._device.type != "meta"
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=scaled)

    def __call__(self, inputs: Tensor, targets: Tensor, observer: StepObserver | None = None) -> Tensor:
        """Run one forward, backward and optimizer step, or the task's own instead; return the detached scalar loss.

        Parameters
        ----------
        inputs, targets
            One batch, on the module's device.
        observer
            Told as each phase begins, when memory is measured.
        """
        observer = observer or Unobserved()
        if self.task.forward_only:
            observer.forward()
            with torch.no_grad():
                loss = self.task.step(self.module, self.optimizer.param_groups[0]["lr"], inputs, targets)
            observer.end()
            return loss
        with self.technique.backward(self.module, self.optimizer):
            losses = [
                self._gradients(some, labels, share, observer)
                for some, labels, share in self.technique.parts(inputs, targets)
            ]
        observer.optimizer()
        if self.task.max_gradient_norm is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self.task.max_gradient_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        observer.end()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _gradients(self, inputs: Tensor, targets: Tensor, share: float, observer: StepObserver) -> Tensor:
        """Add the gradients of a part of a batch to what there is; return its share of the detached loss."""
        observer.forward()
        with self.technique.forward(self.module, self._device):
            loss = self.task.loss(self.module, inputs, targets)
        if share != 1:
            loss = loss * share
        observer.backward(loss)
        self._scaler.scale(loss).backward()
        return loss.detach()


def train_locally(
    task: Task,
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    augmented: bool,
    technique: Technique = PLAIN,
) -> float:
    """Train a device's task on its examples; return the mean loss per example over all epochs of all segments.

    Parameters
    ----------
    inputs, targets
        The device's examples: of the model's input dtype, (examples, *input_shape), and int64 (examples,), in
        host memory; only a batch at a time goes to the module's device.
    generator
        Decides order and augmentation; nothing else does.
    augmented
        Whether pictures are cropped and flipped at random.
    technique
        How memory is saved.
    """
    device = _device(module)
    total = torch.zeros((), dtype=torch.float64)
    for segment in range(task.segments):
        task.enter(module, segment)
        step = LocalStep(task, module, recipe, technique)
        for _ in range(recipe.local_epochs):
            order = torch.randperm(len(targets), generator=generator)
            for batch in order.split(recipe.batch_size):
                pictures = augment(inputs[batch], generator) if augmented else inputs[batch]
                # No name for the loss: it would lie on the device throughout the next step.
                mean = step(pictures.to(device), targets[batch].to(device)).cpu()
                total += mean * len(batch)
    return float(total) / (task.segments * recipe.local_epochs * len(targets))


@cache
def _example(model: ModelSpec) -> tuple[tuple[int, ...], torch.dtype]:
    """Return what the model takes: looked up once for the many tasks and times that a step is prepared."""
    takes = model.skeleton()
    return takes.input_shape, takes.input_dtype


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
        smaller: memory that is cached in other sizes is what a tight budget fails at. Of a task of several segments a
        measured step goes through all of them, each with an optimizer of its own that is gone before the next.
    technique
        How memory is saved.
    """

    scope: str
    model: ModelSpec
    task: Task
    recipe: Recipe
    technique: Technique = PLAIN

    @property
    def key(self) -> str:
        """Name of the footprint: everything that decides its bytes."""
        model, recipe = self.model, self.recipe
        plain = (
            f"{self.scope}/{self.task.key} of {model.name} width {model.width}, {model.classes} classes, "
            f"batch {recipe.batch_size}, SGD momentum {recipe.momentum:g} weight decay {recipe.weight_decay:g}"
        ) + (", gradients clipped" if self.task.max_gradient_norm is not None else "")
        return plain if self.technique == PLAIN else f"{plain}, {self.technique}"

    @property
    def steps_per_segment(self) -> int:
        """How many local steps a measured one has of each segment: where others follow two, for the momentum."""
        return 1 if self.task.segments == 1 else 2

    def prepare(self, device: torch.device) -> Prepared:
        """Build module, optimizer and one batch on ``device``; the values do not matter, only their sizes."""
        with torch.device("meta"):
            module = self.task.build()
        module.to_empty(device=device)
        shape, dtype = _example(self.model)
        inputs = torch.zeros(self.recipe.batch_size, *shape, dtype=dtype, device=device)
        targets = torch.zeros(self.recipe.batch_size, dtype=torch.int64, device=device)
        steps = [LocalStep(self.task, module, self.recipe, self.technique) for _ in range(self.task.segments)]

        part = math.ceil(self.recipe.batch_size / 2)
        sizes = itertools.cycle([self.recipe.batch_size] * 4 + [part])

        def step(observer: StepObserver) -> None:
            size = next(sizes)
            for segment, train in enumerate(steps):
                self.task.enter(module, segment)
                for _ in range(self.steps_per_segment):
                    train(inputs[:size], targets[:size], observer)
                if self.task.segments > 1:
                    train.optimizer.state.clear()

        return Prepared(module, [train.optimizer for train in steps], (inputs, targets), step)
