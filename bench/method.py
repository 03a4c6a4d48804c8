"""The contract between a federated method and the harness: Method, Task, Update. Read this first.

A method offers tasks; the harness measures what each task needs, lets every device train the first offered task
that fits its memory, and hands the updates back. A method never sees a memory budget.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from profl.bench.aggregation import State, Update, leading, owner_mean
from profl.bench.models import ModelSpec
from profl.bench.models.loading import copy_into
from profl.bench.randomness import initialised

Network = TypeVar("Network", bound=nn.Module)

KINDS = ("reference", "width", "depth", "progressive", "freezing", "forward only")
"""What methods do about memory, in the order in which they are shown; a method may say something else."""


@dataclass(frozen=True)
class LocalContext:
    """What a task may know of the device it runs on. Made by the harness.

    Parameters
    ----------
    generator
        The device's own random generator for this round.
    classes
        Which classes the device holds examples of; bool, shape (classes,).
    examples
        Number of training examples on the device.
    """

    generator: torch.Generator
    classes: Tensor
    examples: int


class Task(ABC):
    """What one device trains in one round: a picklable value object without global state.

    ``build``, ``loss`` and the ``key`` decide the memory footprint; the harness runs them both when it trains and
    when it measures.
    """

    learning_rate: float | None = None
    """Overrides the recipe's learning rate if not None."""
    max_gradient_norm: float | None = None
    """Gradients are clipped to this 2-norm before every step if not None."""
    unsuited_techniques: ClassVar[Mapping[str, str]] = {}
    """Memory techniques that would change what the task trains, by name, and why (``profl list techniques``)."""
    forward_only: bool = False
    """Whether `step` takes the place of a local step's loss, backward pass and optimizer."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Stable name, unique within a method and model; tasks with equal keys have equal footprints."""

    @property
    def segments(self) -> int:
        """How many parts of the module train one after another in a round, each for all local epochs; mostly one.

        What the task needs is what its dearest segment needs, and its operations are those of all segments together.
        """
        return 1

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the module in train mode with ``requires_grad`` set. Called by the harness, also on 'meta'."""

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        """Copy the global values into a resident ``module``, in place. Called before local training."""
        copy_into(module, global_state)

    def enter(self, module: nn.Module, segment: int) -> None:  # noqa: B027 - most tasks have one segment
        """Make ``module`` train a segment, counted from 0, from now on. Called before each, with a fresh optimizer.

        ``requires_grad`` says what the task trains in whichever segment, and stays; what gets a gradient may change.
        """

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar training loss for ``inputs`` (batch, *input_shape) and int64 ``targets`` (batch,)."""
        return functional.cross_entropy(module(inputs), targets)

    def step(self, module: nn.Module, learning_rate: float, inputs: Tensor, targets: Tensor) -> Tensor:
        """Take a local step without gradients; return the scalar loss. Asked of a ``forward_only`` task, in no_grad.

        Memory that stays from step to step belongs to the module, as momentum belongs to an optimizer.
        """
        raise NotImplementedError

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        """Return what the device uploads: by default every tensor of the module.

        Parameters
        ----------
        module
            As local training left it.
        global_state
            The server's tensors, as they were when the round began.
        local
            The device.
        """
        state = {name: value.clone() for name, value in module.state_dict().items()}
        return Update(state, local.examples)


@dataclass(frozen=True)
class FullModel(Task):
    """Plain training of the whole network: what a method without a memory limit offers."""

    model: ModelSpec

    @property
    def key(self) -> str:
        return "full model"

    def build(self) -> nn.Module:
        return self.model.build()


@dataclass(frozen=True)
class TestedNetwork:
    """A network that may stand for what a method has learned.

    Parameters
    ----------
    name
        For the records; for example ``width 1/2``.
    build
        Makes the module, whose forward gives logits, shape (batch, classes). Its tensors have the names of the global
        ones, and take those or their leading elements; every tensor of it must be persistent.
    """

    __test__ = False  # no test of pytest's

    name: str
    build: Callable[[], nn.Module]


@dataclass(frozen=True)
class RoundSummary:
    """What the harness tells a method at the end of a round.

    Parameters
    ----------
    round
        Number of the finished round, from 1.
    participants
        How many devices trained; 0 if nothing offered fits any device.
    train_loss
        Mean local training loss, NaN without participants.
    """

    round: int
    participants: int
    train_loss: float


@dataclass(frozen=True)
class NoOptions:
    """A method without knobs."""


class Method(ABC):
    """A federated algorithm: which tasks it offers and how it merges what comes back.

    Parameters
    ----------
    model
        The full network.
    rounds
        Round budget of the run; schedules must end inside it.
    seed
        Seed of every random draw of the method.
    options
        An instance of the class's ``Options`` dataclass.
    """

    kind: ClassVar[str] = ""
    """What it does about memory, a word of `KINDS` or one of its own; empty if it does not say."""
    shrinks: ClassVar[str] = ""
    """What becomes smaller on a weak device, in a few words; empty if it does not say."""
    source: ClassVar[str] = ""
    """Paper, venue and year, and the repository if there is one; empty if it does not say."""
    Options: ClassVar[type] = NoOptions
    ignores_memory: ClassVar[bool] = False
    """True only for an ideal upper bound: every device trains the first task, whatever its memory."""
    keeps_batchnorm_statistics: ClassVar[bool] = True
    """False if training moves no running statistics, so that there is no accuracy without re-estimating them."""
    deviations: ClassVar[tuple[str, ...]] = ()
    """What differs from the published method, one short sentence each; shown wherever its results are."""

    finished_rounds: int = 0
    """Rounds before the one that comes or runs. Set by the harness as each begins, also in a run that is resumed."""

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        self.model = model
        self.rounds = rounds
        self.seed = seed
        self.options = options

    @cached_property
    def global_state(self) -> State:
        """The server's tensors, from which tasks load: the full model's, unless the subclass sets its own.

        The default is built when it is first read, so a subclass that sets another never pays for it.
        """
        return initial_state(self.model, self.seed)

    @abstractmethod
    def all_tasks(self) -> Sequence[Task]:
        """Every task the method may ever offer, for measuring beforehand."""

    @abstractmethod
    def tasks(self) -> Sequence[Task]:
        """Tasks offered in the coming round, the most preferred first; a device takes the first that fits."""

    def tested_networks(self) -> Sequence[TestedNetwork]:
        """Return the networks that may be tested, the most complete first. By default the full model alone.

        The harness fills in the global state and tests the first of which some device has trained every part; the
        first of all if there is none.
        """
        return [TestedNetwork("full model", self.model.build)]

    @property
    def phase(self) -> str:
        """Where the schedule stands, for the records; for example ``grow 2/4``."""
        return "train"

    def diagnostics(self) -> Mapping[str, float]:
        """Return figures of the method's own, for the records of the round that is ending; NaN is unknown."""
        return {}

    def settle(self, eligible_devices: Mapping[str, int]) -> None:  # noqa: B027 - most methods have no use for it
        """Hear once, before round 1, how many devices can train each of ``all_tasks``, by key."""

    def aggregate(self, updates: Sequence[Update]) -> None:
        """Merge the round's updates, in participant order, into the global state. Never called with none.

        By default the mean over the devices that own an element, all alike whatever their ``Update.examples``.
        """
        owner_mean(self.global_state, updates)

    def finish_round(self, summary: RoundSummary) -> None:  # noqa: B027 - only schedules move here
        """Hear that a round is over; schedules move here."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on to the bit, but for `finished_rounds`: tensors, numbers, text, containers."""
        return {"global_state": self.global_state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.global_state = dict(state["global_state"])


def initial_state(model: ModelSpec, seed: int) -> State:
    """Return the full model's initial tensors: the same for every method at one seed."""
    with initialised(seed, "model"):
        return model.build().state_dict()


def filled(build: Callable[[], Network], state: Mapping[str, Tensor]) -> Network:
    """Build a module on the CPU and copy ``state`` into it, without drawing initial values only to lose them.

    Parameters
    ----------
    build
        Makes the module; every tensor of it must be persistent.
    state
        Values by name; names that the module does not have are left out. Of a larger value the leading elements are
        taken.
    """
    with torch.device("meta"):
        module = build()
    module.to_empty(device="cpu")
    module.load_state_dict({name: leading(state[name], value.shape) for name, value in module.state_dict().items()})
    return module
