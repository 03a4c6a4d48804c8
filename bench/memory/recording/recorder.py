"""Watch a training step beside the log of the allocator, without changing what it allocates.

The recorder only notes, as the phases of a step begin, how far the log has come and at which addresses parameters,
gradients and the like live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from profl.bench.memory.recording.allocator_log import AllocatorLog
from profl.bench.memory.recording.event_log import STEP, Claim, History, Phase, read_log
from profl.bench.memory.recording.trail import ROOT, ModuleTrail, parameter_owners, stage_parameter_bytes

_PREDECESSORS = {
    "forward": ("between", "backward"),
    "backward": ("forward",),
    "optimizer": ("forward", "backward"),
    "between": ("forward", "backward", "optimizer"),
}
"""The phases that each may follow. Gradients may be gathered over several forward and backward passes."""

_CATEGORIES = {
    "prepare": "temporaries",
    "between": "inputs",
    "forward": "activations",
    "backward": "temporaries",
    "optimizer": "temporaries",
}


class Recorder:
    """Observer of training steps. Use as a context manager around preparing them and running them.

    Parameters
    ----------
    log
        Of the allocator; begun and ended here. Afterwards `history` tells whose its events are.
    """

    def __init__(self, log: AllocatorLog) -> None:
        self.phases = [Phase(0, "prepare", _CATEGORIES["prepare"])]
        self.claims: list[Claim] = []
        self.stage_parameter_bytes: Mapping[str, int] = {}
        self._log = log
        self._watched: _Watched | None = None

    def __enter__(self) -> Self:
        self._log.begin()
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
            self._log.close()
            self._watched = None  # it holds on to what is measured

    def prepared(self, module: nn.Module, optimizer: torch.optim.Optimizer, inputs: Iterable[Tensor]) -> None:
        """Everything that stays is on the GPU; the first step comes next."""
        self._watched = watched = _Watched(module, optimizer)
        watched.trail.__enter__()
        self.stage_parameter_bytes = stage_parameter_bytes(module)
        self._claim("parameters", watched.parameters())
        self._claim("optimizer state", watched.optimizer_state())
        self._claim("inputs", ((tensor, STEP) for tensor in inputs))
        self._claim("buffers", watched.buffers())
        self.claims.append(Claim(self._log.moment(), "buffers"))
        self._begin("between")

    def forward(self) -> None:
        """Begin the forward pass."""
        self._follow("forward")

    def backward(self, loss: Tensor) -> None:
        """Begin the backward pass from ``loss``, or go on with it from there."""
        if self.phases[-1].name != "backward":
            self._follow("backward")
        assert self._watched is not None
        self._watched.trail.annotate_graph(loss)

    def optimizer(self) -> None:
        """Begin the optimizer's step: what the parameters now hold as gradients are the gradients."""
        watched = self._follow("optimizer")
        self._claim("gradients", watched.gradients())

    def end(self) -> None:
        """End the step: what the optimizer now keeps is its state, and what the parameters hold may be new."""
        watched = self._follow("between")
        self._claim("parameters", watched.parameters())
        self._claim("optimizer state", watched.optimizer_state())

    @property
    def steps(self) -> int:
        """How many steps have ended."""
        return max(0, sum(phase.name == "between" for phase in self.phases) - 1)

    def check_step_complete(self) -> None:
        """Raise RuntimeError unless a step has ended."""
        if self.phases[-1].name != "between" or not self.steps:
            raise RuntimeError(
                f"the step stopped telling its observer in the phase '{self.phases[-1].name}': "
                "it must call forward, backward, optimizer and end"
            )

    @property
    def history(self) -> History:
        """What lived when, and whose it was."""
        return read_log(self._log.events, self.phases, self.claims, self._end)

    def _begin(self, name: str) -> None:
        self.phases.append(Phase(self._log.moment(), name, _CATEGORIES[name]))

    def _follow(self, name: str) -> _Watched:
        current = self.phases[-1].name
        if self._watched is None or current not in _PREDECESSORS[name]:
            after = "' or '".join(_PREDECESSORS[name])
            raise RuntimeError(f"the step went from '{current}' to '{name}', which comes after '{after}'")
        self._begin(name)
        return self._watched

    def _claim(self, category: str, owned: Iterable[tuple[Tensor | None, str]]) -> None:
        modules: dict[int, str] = {}
        for tensor, module in owned:
            address = None if tensor is None else self._log.address(tensor)
            if address is not None:
                modules.setdefault(address, module)
        self.claims.append(Claim(self._log.moment(), category, modules))


class _Watched:
    """What is trained: its tensors, each with the path of the module that it belongs to."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._module, self._optimizer = module, optimizer
        self._owners = parameter_owners(module)
        self.trail = ModuleTrail(module)

    def parameters(self) -> Iterator[tuple[Tensor, str]]:
        yield from self._owners.items()
        for group in self._optimizer.param_groups:
            yield from ((parameter, self._owners.get(parameter, STEP)) for parameter in group["params"])

    def gradients(self) -> Iterator[tuple[Tensor | None, str]]:
        return ((parameter.grad, owner) for parameter, owner in self.parameters())

    def optimizer_state(self) -> Iterator[tuple[Tensor | None, str]]:
        for parameter, state in self._optimizer.state.items():
            owner = self._owners.get(parameter, STEP)
            yield from ((value, owner) for value in state.values() if isinstance(value, Tensor))

    def buffers(self) -> Iterator[tuple[Tensor, str]]:
        for path, child in self._module.named_modules():
            yield from ((buffer, path or ROOT) for buffer in child.buffers(recurse=False))
