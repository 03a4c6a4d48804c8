"""Watch a training step beside the log of the allocator, without changing what it allocates.

The recorder only notes, as the phases of a step begin, how far the log has come and at which addresses parameters,
gradients and the like live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves

from profl.bench.memory.recording.allocator_log import AllocatorLog
from profl.bench.memory.recording.event_log import STEP, Claim, Graph, History, Phase, read_log
from profl.bench.memory.recording.plain import plain_tensors
from profl.bench.memory.recording.trail import ModuleTrail, stage_parameter_bytes
from profl.bench.memory.workload import optimizers_of

if TYPE_CHECKING:
    from profl.bench.memory.workload import Optimizers

_PREDECESSORS = {
    "forward": ("between", "backward", "optimizer"),
    "backward": ("forward",),
    "optimizer": ("forward", "backward"),
    "between": ("forward", "backward", "optimizer"),
}
"""The phases that each may follow. Gradients may be gathered over several forward and backward passes, and an optimizer
may run such passes as part of its step."""

_CATEGORIES = {
    "prepare": "temporaries",
    "between": "inputs",
    "forward": "activations",
    "backward": "temporaries",
    "optimizer": "temporaries",
}


class Recorder:
    """Observer of training steps. Use as a context manager around preparing them and running them.

    Whatever is stepped by whichever optimizer meanwhile is known by PyTorch's hooks: parameters, gradients, state.

    Parameters
    ----------
    log
        Of the allocator; begun and ended here. Afterwards `history` tells whose its events are.
    """

    def __init__(self, log: AllocatorLog) -> None:
        self.phases = [Phase(0, "prepare", _CATEGORIES["prepare"])]
        self.claims: list[Claim] = []
        self.graphs: list[Graph] = []
        self.stage_parameter_bytes: Mapping[str, int] = {}
        self._log = log
        self._watched: _Watched | None = None
        self._whole_step = False
        self._beginning = self._nodes_before = 0

    def __enter__(self) -> Self:
        self._log.begin()
        self._hooks = (
            register_optimizer_step_pre_hook(self._optimizer_steps),
            register_optimizer_step_post_hook(self._optimizer_stepped),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._watched:
                self._watched.trail.__exit__(kind, error, trace)
                if error is None:
                    self._claim("gradients", self._watched.gradients())
            if error is None:
                self._end = self._log.moment()
                self._log.end()
        finally:
            for hook in self._hooks:
                hook.remove()
            self._log.close()
            self._watched = None  # it holds on to what is measured

    def prepared(self, module: nn.Module, optimizer: Optimizers, inputs: Iterable[Tensor]) -> None:
        """Everything that stays is on the GPU; the first step comes next."""
        trail = ModuleTrail(module, on_stranger=self._claim_module)
        self._watched = watched = _Watched(module, optimizers_of(optimizer), trail)
        watched.trail.__enter__()
        self.stage_parameter_bytes = stage_parameter_bytes(module)
        self._claim("parameters", watched.parameters())
        self._claim("optimizer state", watched.optimizer_state())
        self._claim("inputs", ((tensor, STEP) for tensor in inputs))
        self._claim("buffers", watched.buffers())
        self.claims.append(Claim(self._log.moment(), "buffers"))
        self._begin("between")
        self._note_beginning()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Take what is told meanwhile as one step, whatever parts of it end.

        Raises
        ------
        RuntimeError
            If the step, having told that it begins, does not tell that it ends.
        """
        first = len(self.phases)
        self._note_beginning()
        begins, self._whole_step = self._beginning, True
        yield
        self._whole_step = False
        told_nothing = len(self.phases) == first
        if told_nothing or (self.phases[-1].name == "between" and self._has_computed()):
            self._begin("forward", begins if told_nothing else self._beginning)
            self.end()
        if self.phases[-1].name != "between":
            raise RuntimeError(
                f"the step stopped telling its observer in the phase '{self.phases[-1].name}': "
                "it must call forward, backward, optimizer and end"
            )
        self._join(first)

    def forward(self) -> None:
        """Begin the forward pass: when the step began, if autograd has worked since."""
        self._follow("forward")

    def backward(self, loss: Tensor) -> None:
        """Begin the backward pass from ``loss``, or go on with it from there."""
        if self.phases[-1].name != "backward":
            self._begin_untold_forward()
            self._follow("backward")
        assert self._watched is not None
        saved = chain.from_iterable(map(self._addresses, self._watched.trail.annotate_graph(loss)))
        if torch._C._current_autograd_node() is None:  # else part of a pass that goes on
            self._claim("gradients", self._watched.gradients())
            self.graphs.append(Graph(self._log.moment(), frozenset(saved)))

    def optimizer(self) -> None:
        """Begin the optimizer's step: what the parameters now hold as gradients are the gradients."""
        self._begin_untold_forward()
        watched = self._follow("optimizer")
        self._claim("gradients", watched.gradients())
        self._note_beginning()

    def end(self) -> None:
        """End the step: what the optimizer now keeps is its state, and what the parameters hold may be new."""
        validates = not self._whole_step and self.phases[-1].name == "forward"
        last_step = len(self.phases) - 2
        watched = self._follow("between")
        self._claim("parameters", watched.parameters())
        self._claim("optimizer state", watched.optimizer_state())
        self._claim("gradients", watched.gradients())
        self._note_beginning()
        if validates and self.phases[last_step - 1].name == "optimizer":
            self._join(last_step)

    @property
    def steps(self) -> int:
        """How many steps have ended."""
        return max(0, sum(phase.name == "between" for phase in self.phases) - 1)

    @property
    def history(self) -> History:
        """What lived when, and whose it was."""
        return read_log(self._log.events, self.phases, self.claims, self._end, self.graphs)

    def _begin(self, name: str, moment: int | None = None) -> None:
        self.phases.append(Phase(self._log.moment() if moment is None else moment, name, _CATEGORIES[name]))

    def _follow(self, name: str) -> _Watched:
        current = self.phases[-1]
        if self._watched is None or current.name not in _PREDECESSORS[name]:
            after = "' or '".join(_PREDECESSORS[name])
            raise RuntimeError(f"the step went from '{current.name}' to '{name}', which comes after '{after}'")
        untold = name == "forward" and current.moment <= self._beginning and self._has_computed()
        self._begin(name, self._beginning if untold else None)
        return self._watched

    def _begin_untold_forward(self) -> None:
        """Where something follows that only a forward pass can precede, one began when the step did."""
        if self.phases[-1].name in ("between", "optimizer") and self.phases[-1].moment <= self._beginning:
            self._begin("forward", self._beginning)

    def _note_beginning(self) -> None:
        """Note that a forward pass may begin here that nobody will tell of."""
        if torch._C._current_autograd_node() is None:
            self._beginning = self._log.moment()
            self._nodes_before = torch._C._autograd._get_sequence_nr()

    def _has_computed(self) -> bool:
        """Whether autograd has taken note of anything in this thread since the step began."""
        return torch._C._autograd._get_sequence_nr() > self._nodes_before

    def _join(self, first: int) -> None:
        """Make one step of those that the phases from ``first`` on are, but for the last, which ends it."""
        for index, phase in enumerate(self.phases[first:-1], first):
            if phase.name == "between":
                self.phases[index] = replace(phase, name="optimizer")

    def _optimizer_steps(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._watched:
            self._claim("parameters", self._watched.stepped(optimizer))
            self._claim("gradients", self._watched.gradients_of(optimizer))

    def _optimizer_stepped(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._watched:
            self._claim("parameters", self._watched.stepped(optimizer))
            self._claim("optimizer state", self._watched.state_of(optimizer))
            self._note_beginning()

    def _claim_module(self, module: nn.Module) -> None:
        if self._watched:
            self._claim("parameters", self._watched.parameters_of(module))
            self._claim("buffers", self._watched.buffers_of(module))

    def _claim(self, category: str, owned: Iterable[tuple[Tensor | None, str]]) -> None:
        modules: dict[int, str] = {}
        for tensor, module in owned:
            if tensor is not None:
                for address in self._addresses(tensor):
                    modules.setdefault(address, module)
        self.claims.append(Claim(self._log.moment(), category, modules))

    def _addresses(self, tensor: Tensor) -> list[int]:
        addresses = map(self._log.address, plain_tensors(tensor))
        return [address for address in addresses if address is not None]


class _Watched:
    """What is trained: its tensors, each with the path of the module that it belongs to."""

    def __init__(self, module: nn.Module, optimizers: tuple[torch.optim.Optimizer, ...], trail: ModuleTrail) -> None:
        self._module, self._optimizers = module, optimizers
        self.trail = trail

    def parameters(self) -> Iterator[tuple[Tensor, str]]:
        stepped = (tensor for optimizer in self._optimizers for tensor in _parameters_of(optimizer))
        return self._owned(dict.fromkeys((*self._module.parameters(), *stepped)))

    def gradients(self) -> Iterator[tuple[Tensor | None, str]]:
        return ((parameter.grad, owner) for parameter, owner in self.parameters())

    def optimizer_state(self) -> Iterator[tuple[Tensor, str]]:
        for optimizer in self._optimizers:
            yield from self.state_of(optimizer)

    def buffers(self) -> Iterator[tuple[Tensor, str]]:
        return self.buffers_of(self._module)

    def parameters_of(self, module: nn.Module) -> Iterator[tuple[Tensor, str]]:
        return self._owned(module.parameters())

    def buffers_of(self, module: nn.Module) -> Iterator[tuple[Tensor, str]]:
        for child in module.modules():
            yield from ((buffer, self.trail.path(child)) for buffer in child.buffers(recurse=False))

    def stepped(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, str]]:
        return self._owned(_parameters_of(optimizer))

    def gradients_of(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor | None, str]]:
        return ((parameter.grad, owner) for parameter, owner in self.stepped(optimizer))

    def state_of(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, str]]:
        """Return what the optimizer keeps of each parameter, also in lists and the like."""
        for parameter, state in optimizer.state.items():
            owner = self.trail.owner(parameter) if isinstance(parameter, Tensor) else STEP
            yield from ((value, owner) for value in tree_leaves(state) if isinstance(value, Tensor))

    def _owned(self, parameters: Iterable[Tensor]) -> Iterator[tuple[Tensor, str]]:
        return ((parameter, self.trail.owner(parameter)) for parameter in parameters)


def _parameters_of(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
