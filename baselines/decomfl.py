"""DeComFL: devices learn without a backward pass, by random perturbations, and send a few numbers a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from profl.bench.aggregation import State, Update
from profl.bench.errors import InputError
from profl.bench.method import LocalContext, Method, Task
from profl.bench.models import ModelSpec
from profl.bench.models.normalisation import normalise
from profl.bench.randomness import named_seed, torch_generator

MOST_STEPS = 1024
"""How many local steps a device has room to remember."""


class DeComFL(Method):
    """Li et al.: *DeComFL*, ICLR 2025 (arXiv 2405.15861); details as in ``ZidongLiu/DeComFL`` [code].

    Zeroth-order descent: a step draws directions of normally distributed numbers, measures by how much the loss changes
    along each, and moves all parameters along them in proportion. There are no gradients, nothing is kept for a
    backward pass, and of a direction no more exists at a time than one parameter's numbers [code, ``no-optim``], as it
    is drawn again from its seed whenever it is needed. This is the least memory that training the whole network takes:
    its parameters and one forward pass.

    All devices of a round have the same seeds. A device uploads the measured changes, a number a direction and step,
    and nothing else; the server moves its own copy along the same directions and takes the plain mean over devices,
    which is the published mean of the numbers where all take as many steps. The learning rate is a share of the
    recipe's; momentum, weight decay and clipping are left out [code, ``no-optim``].

    BatchNorm is static [ours, as numbers alone are sent]: training normalises by the batch and keeps no running
    statistics. The full model is tested.
    """

    kind: ClassVar[str] = "forward only"
    shrinks: ClassVar[str] = "nothing (there is no backward pass)"
    source: ClassVar[str] = "Li et al., ICLR 2025 (arXiv 2405.15861); ZidongLiu/DeComFL"
    keeps_batchnorm_statistics = False

    deviations = (
        "A device takes the recipe's local steps, as many as it has batches; published is the same number for all.",
        "A device receives the whole model; published are seeds and numbers of the rounds that it has missed.",
        "BatchNorm keeps no running statistics; they are re-estimated before tests, as of every method.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of DeComFL.

        Parameters
        ----------
        perturbations
            Directions a step [code, of its example].
        distance
            How far along a direction the loss is measured, in units of its numbers [code].
        estimate
            ``"forward"``: the loss there against the loss here, one forward pass a direction and one more [code, of its
            example]; ``"central"``: against the loss as far the other way, two a direction [code, default].
        rate_share
            The learning rate, as a share of the recipe's: a hundredth, as of the rates of the published examples of
            this method and of FedAvg [code].
        """

        perturbations: int = 5
        distance: float = 1e-3
        estimate: Literal["forward", "central"] = "forward"
        rate_share: float = 0.01

        def __post_init__(self) -> None:
            if self.perturbations < 1:
                raise InputError(f"perturbations must be at least 1, not {self.perturbations}")
            for name in ("distance", "rate_share"):
                if not 0 < getattr(self, name) < math.inf:
                    raise InputError(f"{name} must be above 0, not {getattr(self, name)}")

    def all_tasks(self) -> Sequence[Task]:
        return self.tasks()

    def tasks(self) -> Sequence[Task]:
        chosen = self.options
        seed = named_seed(self.seed, "directions", self.finished_rounds)
        central = chosen.estimate == "central"
        return [PerturbationTask(self.model, seed, chosen.perturbations, chosen.distance, central, chosen.rate_share)]


@dataclass(frozen=True)
class PerturbationTask(Task):
    """Train the whole network by how its loss changes along random directions.

    Parameters
    ----------
    model
        The full network.
    seed
        Of all directions of the round.
    perturbations
        Directions a step.
    distance
        How far along each the loss is measured.
    central
        Whether it is measured in both ways.
    rate_share
        The learning rate, as a share of the recipe's.
    """

    model: ModelSpec
    seed: int
    perturbations: int
    distance: float
    central: bool
    rate_share: float

    forward_only = True

    @property
    def key(self) -> str:
        return f"{self.perturbations} perturbations" + (", central" if self.central else "")

    def build(self) -> nn.Module:
        module = self.model.build()
        normalise(module, "static")
        module.add_module("changes", Changes(self.perturbations))
        return module

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        super().load(module, global_state, local)
        changes_of(module).forget()

    def step(self, module: nn.Module, learning_rate: float, inputs: Tensor, targets: Tensor) -> Tensor:
        changes, parameters = changes_of(module), dict(module.named_parameters())
        number, rate = changes.steps, learning_rate * self.rate_share
        measured = changes.begin_step(rate)
        losses = [] if self.central else [self.loss(module, inputs, targets)]
        for direction in range(self.perturbations):
            self._move(parameters, number, direction, self.distance)
            there = self.loss(module, inputs, targets)
            if self.central:
                self._move(parameters, number, direction, -2 * self.distance)
                back = self.loss(module, inputs, targets)
                self._move(parameters, number, direction, self.distance)
                measured[direction] = (there - back) / (2 * self.distance)
                losses.append((there + back) / 2)
            else:
                self._move(parameters, number, direction, -self.distance)
                measured[direction] = (there - losses[0]) / self.distance
        self._descend(parameters, number, measured, rate)
        return torch.stack(losses).mean()

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        """Send the numbers; what the server makes of them is computed from these and from its own values alone."""
        changes = changes_of(module)
        numbers = changes.numbers[: changes.steps].cpu().clone()
        state: State = {name: global_state[name].clone() for name, _ in module.named_parameters()}
        for step, measured in enumerate(numbers):
            self._descend(state, step, measured, changes.rate)
        return Update(state, local.examples, sent={"changes": numbers})

    def _descend(self, parameters: Mapping[str, Tensor], step: int, measured: Tensor, rate: float) -> None:
        """Move against the mean of a step's directions, each times what was measured along it; shape (directions,)."""
        for direction, change in enumerate(measured):
            self._move(parameters, step, direction, change * (-rate / self.perturbations))

    def _move(self, parameters: Mapping[str, Tensor], step: int, direction: int, distance: float | Tensor) -> None:
        """Move parameters along a direction, which is drawn anew from its name, one parameter's numbers at a time."""
        # Drawn on the CPU, as a GPU draws other numbers: devices and the server must draw the same.
        generator = torch_generator(self.seed, step, direction)
        for parameter in parameters.values():
            along = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            parameter.add_(along.mul_(distance))


class Changes(nn.Module):
    """What a device measures in a round: by how much the loss changes along each direction of each step.

    Parameters
    ----------
    perturbations
        Directions a step.
    """

    numbers: Tensor
    """Shape (``MOST_STEPS``, directions): its size does not depend on how far training has come."""

    def __init__(self, perturbations: int) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.zeros(MOST_STEPS, perturbations), persistent=False)
        self.forget()

    def forget(self) -> None:
        """Begin a round."""
        self.numbers.zero_()
        self.steps, self.rate = 0, 0.0

    def begin_step(self, rate: float) -> Tensor:
        """Return where the numbers of a new step go, shape (directions,).

        Raises
        ------
        InputError
            If there is no room for another step.
        """
        if self.steps == MOST_STEPS:
            raise InputError(
                f"decomfl has room for {MOST_STEPS} local steps: take larger batches or fewer local epochs"
            )
        self.steps, self.rate = self.steps + 1, rate
        return self.numbers[self.steps - 1]


def changes_of(module: nn.Module) -> Changes:
    """Return what a device has measured with a module that `PerturbationTask` has built."""
    changes = module.get_submodule("changes")
    assert isinstance(changes, Changes)
    return changes
