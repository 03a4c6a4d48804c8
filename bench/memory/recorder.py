"""Watch a training step through the hooks of PyTorch's own allocator, without changing what it allocates.

The allocator keeps a log of what it does, with the C++ stack of every allocation and the module that asked for it.
The recorder only notes, as the phases of a step begin, how far the log has come and at which addresses parameters,
gradients and the like live.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from bench.memory.event_log import STEP, Claim, Event, History, Phase, changes, read_log
from bench.memory.gpu.driver import unmodelled
from bench.memory.trail import ROOT, ModuleTrail, parameter_owners, stage_parameter_bytes

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

    Afterwards `history` holds the result, `stats` the allocator's statistics, `snapshot` what PyTorch's own memory
    viewer shows, and `caveats` what a virtual GPU could not play. What already lives on ``device`` counts as allocated
    in preparing. At the end cuBLAS gives its workspaces back; it takes new ones when it next runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases = [Phase(0, "prepare", _CATEGORIES["prepare"])]
        self.claims: list[Claim] = []
        self.stage_parameter_bytes: Mapping[str, int] = {}
        self._watched: _Watched | None = None

    def __enter__(self) -> Self:
        torch.cuda.memory._record_memory_history(
            "all", context="alloc", stacks="all", max_entries=sys.maxsize, clear_history=True
        )
        self._allocated_before = _living(torch.cuda.memory._snapshot(self.device), self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        torch.cuda.reset_accumulated_memory_stats(self.device)
        torch.cuda.memory._set_memory_metadata(STEP)
        unmodelled()  # of earlier measurements
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watched:
            self._watched.trail.__exit__(kind, error, trace)
        torch.cuda.memory._set_memory_metadata("")
        if error is None:
            torch.cuda.synchronize(self.device)
            if self._watched:
                self._claim("gradients", self._watched.gradients())
            self.stats: Mapping[str, int] = torch.cuda.memory_stats(self.device)
            self._end = self._moment()
            torch._C._cuda_clearCublasWorkspaces()
            self._end_of_log = self._moment()
            self.snapshot: dict[str, Any] = torch.cuda.memory._snapshot(self.device)
            self.caveats = unmodelled()
        torch.cuda.memory._record_memory_history(None)
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
        self.claims.append(Claim(self._moment(), "buffers"))
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
        """End the step: what the optimizer now keeps is its state."""
        watched = self._follow("between")
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
        """What lived when.

        Raises
        ------
        RuntimeError
            If the log is not complete.
        """
        log = changes(self.snapshot["device_traces"][self.device.index])
        events = [*self._allocated_before, *log]
        if len(events) < self._end_of_log:
            raise RuntimeError(f"the allocator's log holds {len(events)} events of {self._end_of_log}")
        return read_log(events[: self._end_of_log], self.phases, self.claims, self._end)

    def _moment(self) -> int:
        """Return how many blocks have come alive and died, those from before the recording included."""
        stats = torch.cuda.memory_stats(self.device)
        return len(self._allocated_before) + int(stats["active.all.allocated"] + stats["active.all.freed"])

    def _begin(self, name: str) -> None:
        self.phases.append(Phase(self._moment(), name, _CATEGORIES[name]))

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
            if tensor is not None and tensor.device == self.device:
                modules.setdefault(tensor.untyped_storage().data_ptr(), module)
        self.claims.append(Claim(self._moment(), category, modules))


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


def _living(snapshot: Mapping[str, Any], device: torch.device) -> list[Event]:
    """Return the allocations of all blocks that live, as a log would have told them."""
    return [
        {"action": "alloc", "addr": block["address"], "size": block["requested_size"]}
        for segment in snapshot["segments"]
        if segment["device"] == device.index
        for block in segment["blocks"]
        if block["state"].startswith("active")
    ]
