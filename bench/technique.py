"""Ways for a local step to need less memory, whatever the method: one class each, and how a user writes them.

``checkpoint+micro-batch:4`` is a `Technique` of two ways. `profl.bench.training.LocalStep` asks it for what it changes;
a way overrides what it means to change and leaves everything else as in plain training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from profl.bench.errors import InputError, unknown
from profl.bench.method import Task

NONE = "none"
"""How plain training is written."""

NewOptimizer = Callable[..., torch.optim.Optimizer]
"""Makes an optimizer: called with the parameters that train, ``lr``, ``momentum`` and ``weight_decay``."""

Part = tuple[Tensor, Tensor, float]
"""Examples, their targets, and their share of the batch."""


class Way:
    """One way to need less memory: a small value. By default nothing of a step changes."""

    name: ClassVar[str]
    """How it is written, without its setting."""
    about: ClassVar[str]
    """What it does, in one line."""
    setting: ClassVar[str] = ""
    """What is written behind the name and a colon; nothing if it takes no setting."""
    excludes: ClassVar[Mapping[str, str]] = {}
    """What it cannot be combined with, and why."""
    parts: int = 1
    """In how many parts a batch goes through the network."""
    scales_loss: bool = False
    """Whether the loss is scaled, lest small gradients vanish."""

    @classmethod
    def read(cls, setting: str) -> Way:
        """Return the way at what is written behind its colon.

        Raises
        ------
        InputError
            If that is no setting of it.
        """
        if setting:
            raise InputError(f"technique '{cls.name}' takes no setting, so not '{setting}': write {cls.name}")
        return cls()

    def __str__(self) -> str:
        return self.name

    def optimizer(self, usual: NewOptimizer) -> NewOptimizer:
        """Return what makes the optimizer, given what makes it without this way."""
        return usual

    def forward(self, module: nn.Module, device: torch.device) -> AbstractContextManager[None]:
        """Return what to do around a forward pass, the loss included."""
        return nullcontext()

    def backward(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Return what to do around the backward passes of a step."""
        return nullcontext()

    def refusal(self, task: Task, momentum: float) -> str | None:
        """Return why the way has no meaning for a task at the recipe's momentum, and the remedy; None if it has one."""
        return None


@dataclass(frozen=True)
class Checkpoint(Way):
    """Keep what goes into a stage, not what lies in it, and compute that again on the way back.

    A stage that is a row of composite blocks, as of a ResNet, is taken block by block. What runs without autograd keeps
    nothing anyway and is left alone, and so are stem, head, exits and ProFL's basic layers. What is computed again must
    not overwrite its input.
    """

    name = "checkpoint"
    about = "recompute every stage, or every residual block, in the backward pass"

    @contextmanager
    def forward(self, module: nn.Module, device: torch.device) -> Iterator[None]:
        with ExitStack() as undone:
            for unit in checkpoint_units(module):
                undone.enter_context(patch.object(unit, "forward", partial(_checkpointed, unit.forward, _norms(unit))))
            yield

    def refusal(self, task: Task, momentum: float) -> str | None:
        with torch.device("meta"):
            module = task.build()
        if checkpoint_units(module):
            return None
        return f"finds no 'stages' in the network of task '{task.key}': choose another technique"


def checkpoint_units(module: nn.Module) -> list[nn.Module]:
    """Return the parts of a task's network that are computed again as a whole, front to back.

    They are found where every staged network has them: in the lists named ``stages``.
    """
    stages = [
        stage
        for name, part in module.named_modules()
        if name.rpartition(".")[2] == "stages" and isinstance(part, nn.ModuleList)
        for stage in part
    ]
    return [unit for stage in stages for unit in _units(stage)]


def _units(stage: nn.Module) -> list[nn.Module]:
    """Return the blocks of a stage that is a row of composite ones, else the stage itself."""
    row = [*stage] if isinstance(stage, nn.Sequential) else []
    composite = bool(row) and all(any(True for _ in block.children()) for block in row)
    return row if composite else [stage]


def _norms(unit: nn.Module) -> list[_NormBase]:
    return [part for part in unit.modules() if isinstance(part, _NormBase) and part.track_running_stats]


def _checkpointed(forward: Callable[..., Any], norms: Sequence[_NormBase], *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    contexts = partial(_first_and_again, norms)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)


def _first_and_again(norms: Sequence[_NormBase]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(norms)


@contextmanager
def _statistics_kept(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Keep running statistics as they are, to the bit: the first forward pass has moved them.

    They still take part, as a checkpoint counts what is saved for backward.
    """
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum, norm.num_batches_tracked = momentum, batches


@dataclass(frozen=True)
class MicroBatch(Way):
    """Send a batch through the network in parts and add up their gradients.

    Parameters
    ----------
    parts
        How many; of a batch of fewer examples, one each. Sizes differ by one at most, and the loss of each is weighted
        by its share, so that the sum is the gradient of the mean over the batch.
    """

    parts: int

    name = "micro-batch"
    about = "send a batch through in N parts and add up their gradients; BatchNorm then sees a part at a time"
    setting = "N"

    @classmethod
    def read(cls, setting: str) -> Way:
        if not (setting.isascii() and setting.isdigit() and 1 < int(setting) <= 10**6):
            written = ":".join(filter(None, ("micro-batch", setting)))
            raise InputError(f"technique '{written}' needs a number of parts from 2 on: micro-batch:4, say")
        return cls(int(setting))

    def __str__(self) -> str:
        return f"{self.name}:{self.parts}"


@dataclass(frozen=True)
class Autocast(Way):
    """Run convolutions and matrix products in half the bytes (`torch.autocast`); parameters stay as they are.

    In ``float16`` the loss is scaled (`torch.amp.GradScaler`), and a step whose gradients overflow is left out.
    """

    dtype: str

    name = "autocast"
    about = "compute in bfloat16 or float16, the latter with a scaled loss; parameters stay float32"
    setting = "DTYPE"

    @classmethod
    def read(cls, setting: str) -> Way:
        if setting not in (known := ("bfloat16", "float16")):
            raise InputError(f"technique 'autocast:{setting}' needs one of {', '.join(known)}: autocast:bfloat16, say")
        return cls(setting)

    def __str__(self) -> str:
        return f"{self.name}:{self.dtype}"

    @property
    def scales_loss(self) -> bool:  # type: ignore[override]
        return self.dtype == "float16"

    def forward(self, module: nn.Module, device: torch.device) -> AbstractContextManager[None]:
        if device.type == "meta":  # where operations are counted: as many in every type, and PyTorch has no autocast
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, self.dtype))


@dataclass(frozen=True)
class StepInBackward(Way):
    """Step each parameter as soon as its gradient is there, and let the gradient go."""

    name = "step-in-backward"
    about = "step each parameter as soon as its gradient is there, so that gradients never all live at once"
    excludes: ClassVar[Mapping[str, str]] = {
        "micro-batch": "adds gradients up before a step",
        "autocast:float16": "looks for overflow in all gradients before a step",
    }

    @contextmanager
    def backward(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        def step(parameter: Tensor) -> None:
            optimizer.step()  # no other parameter has a gradient
            parameter.grad = None

        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        hooks = [parameter.register_post_accumulate_grad_hook(step) for parameter in trained]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def refusal(self, task: Task, momentum: float) -> str | None:
        if task.max_gradient_norm is None:
            return None
        return (
            f"never has all gradients at once, and task '{task.key}' clips their norm: turn clipping off in the "
            "method's options, or choose another technique"
        )


@dataclass(frozen=True)
class NoMomentum(Way):
    """Train by plain SGD, which keeps nothing from step to step."""

    name = "no-momentum"
    about = "train without momentum, so that the optimizer keeps nothing"

    def optimizer(self, usual: NewOptimizer) -> NewOptimizer:
        return lambda parameters, **settings: usual(parameters, **{**settings, "momentum": 0.0})

    def refusal(self, task: Task, momentum: float) -> str | None:
        return None if momentum else "leaves out a momentum that the recipe does not have: leave the technique out"


@dataclass(frozen=True)
class EightBitMomentum(Way):
    """Keep the momentum in 8 bits, a scale for every 256 values; of tensors below 4096 values in 32 (bitsandbytes)."""

    name = "8-bit-momentum"
    about = "keep the momentum in 8 bits, with the package bitsandbytes"
    excludes: ClassVar[Mapping[str, str]] = {"no-momentum": "keeps none"}

    def optimizer(self, usual: NewOptimizer) -> NewOptimizer:
        def new(parameters: Sequence[Tensor], **settings: float) -> torch.optim.Optimizer:
            if parameters[0].device.type == "meta":  # where operations are counted, and the optimizer's are not
                return usual(parameters, **settings)
            made: torch.optim.Optimizer = import_module(_EIGHT_BIT).optim.SGD8bit(parameters, **settings)
            return made

        return new

    def refusal(self, task: Task, momentum: float) -> str | None:
        if not momentum:
            return "needs a momentum, which the recipe does not have: leave the technique out"
        if find_spec(_EIGHT_BIT) is None:
            return f"needs the package {_EIGHT_BIT}: pip install {_EIGHT_BIT}, or choose another technique"
        return None


_EIGHT_BIT = "bitsandbytes"


WAYS: dict[str, type[Way]] = {
    way.name: way for way in (Checkpoint, MicroBatch, Autocast, StepInBackward, NoMomentum, EightBitMomentum)
}
"""Every way by its name, in the order in which several are written."""


@dataclass(frozen=True)
class Technique:
    """How local steps save memory: some ways, or none. A small value; equal ones make the same of every step."""

    ways: tuple[Way, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Technique:
        """Read ``none``, ``checkpoint``, ``checkpoint+micro-batch:4`` and the like; the order does not matter.

        Raises
        ------
        InputError
            If a way is unknown, has another setting than it takes, is given twice, or cannot be combined with another.
        """
        written = [] if text.strip() == NONE else [part.strip() for part in text.split("+")]
        ways = sorted((_read(part) for part in written), key=lambda way: list(WAYS).index(way.name))
        for way in ways:
            if sum(way.name == other.name for other in ways) > 1:
                raise InputError(f"technique '{text}' has {way.name} twice: give it once")
            for other in ways:
                if reason := way.excludes.get(other.name) or way.excludes.get(str(other)):
                    raise InputError(f"technique '{way}' cannot go with '{other}', which {reason}: leave one out")
        return cls(tuple(ways))

    def __str__(self) -> str:
        return "+".join(map(str, self.ways)) or NONE

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled, lest small gradients vanish."""
        return any(way.scales_loss for way in self.ways)

    def optimizer(self) -> NewOptimizer:
        """Return what makes the optimizer."""
        new: NewOptimizer = torch.optim.SGD
        for way in self.ways:
            new = way.optimizer(new)
        return new

    def parts(self, inputs: Tensor, targets: Tensor) -> list[Part]:
        """Return a batch in the parts that go through the network one after another."""
        count = min(max((way.parts for way in self.ways), default=1), len(targets))
        if count == 1:
            return [(inputs, targets, 1.0)]
        parts = zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True)
        return [(some, labels, len(labels) / len(targets)) for some, labels in parts]

    def forward(self, module: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
        """Return what to do around a forward pass, the loss included."""
        return _together(way.forward(module, device) for way in self.ways)

    def backward(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> AbstractContextManager[Any]:
        """Return what to do around the backward passes of a step."""
        return _together(way.backward(module, optimizer) for way in self.ways)

    def check(self, task: Task, momentum: float, whose: str) -> None:
        """Make sure that every way has a meaning for a task at the recipe's momentum.

        Raises
        ------
        InputError
            If one has none; ``whose`` says whose task it is.
        """
        for way in self.ways:
            if task.forward_only:
                raise InputError(
                    f"technique '{way}' for {whose} changes a backward pass, and task '{task.key}' has "
                    "none: leave the technique out"
                )
            if reason := task.unsuited_techniques.get(way.name):
                raise InputError(f"technique '{way}' for {whose} {reason}: choose another technique")
            if refused := way.refusal(task, momentum):
                raise InputError(f"technique '{way}' for {whose} {refused}")

    def label(self, method: str) -> str:
        """Return a method's name, and the technique if there is one: ``fedavg with checkpoint``."""
        return f"{method} with {self}" if self.ways else method


PLAIN = Technique()
"""Nothing is saved."""


def _read(text: str) -> Way:
    name, _, setting = text.partition(":")
    if name not in WAYS:
        unknown("technique", name, {NONE, *WAYS})
    return WAYS[name].read(setting)


@contextmanager
def _together(contexts: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as entered:
        for context in contexts:
            entered.enter_context(context)
        yield
