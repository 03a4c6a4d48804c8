"""Watch a training step through the hooks of PyTorch's own allocator, without changing what it allocates.

The allocator keeps a log of what it does, with the C++ stack of every allocation. The recorder only notes, as
the phases of a step begin, how far the log has come and at which addresses parameters, gradients and the like
live.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from bench.memory.event_log import Claim, History, Phase, changes, read_log
from bench.memory.workload import Prepared

_ORDER = {"between": "forward", "forward": "backward", "backward": "optimizer", "optimizer": "between"}
_CATEGORIES = {
    "prepare": "temporaries",
    "between": "inputs",
    "forward": "activations",
    "backward": "temporaries",
    "optimizer": "temporaries",
}


class Recorder:
    """Observer of a workload's steps. Use as a context manager around preparing it and running it.

    Afterwards `history` holds the result and `snapshot` what PyTorch's own memory viewer shows. Begins with
    nothing allocated on ``device``.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases = [Phase(0, "prepare", _CATEGORIES["prepare"])]
        self.claims: list[Claim] = []
        self._prepared: Prepared | None = None

    def __enter__(self) -> Self:
        torch.cuda.reset_peak_memory_stats(self.device)
        torch.cuda.reset_accumulated_memory_stats(self.device)
        torch.cuda.memory._record_memory_history(
            "all", context="alloc", stacks="all", max_entries=sys.maxsize, clear_history=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._prepared = None
        if error is None:
            self._end = self._moment()
            torch._C._cuda_clearCublasWorkspaces()
            self._end_of_log = self._moment()
            self.snapshot: dict[str, Any] = torch.cuda.memory._snapshot(self.device)
        torch.cuda.memory._record_memory_history(None)

    def prepared(self, prepared: Prepared) -> None:
        """Everything that stays is on the GPU; the first step comes next."""
        self._prepared = prepared
        self._claim("parameters", _parameters(prepared))
        self._claim("optimizer state", _optimizer_state(prepared))
        self._claim("inputs", prepared.inputs)
        self.claims.append(Claim(self._moment(), "buffers"))
        self._begin("between")

    def forward(self) -> None:
        """Begin the forward pass."""
        self._follow("forward")

    def backward(self, loss: Tensor) -> None:
        """Begin the backward pass from ``loss``."""
        self._follow("backward")

    def optimizer(self) -> None:
        """Begin the optimizer's step: what the parameters now hold as gradients are the gradients."""
        prepared = self._follow("optimizer")
        self._claim("gradients", (parameter.grad for parameter in _parameters(prepared)))

    def end(self) -> None:
        """End the step: what the optimizer now keeps is its state."""
        prepared = self._follow("between")
        self._claim("optimizer state", _optimizer_state(prepared))

    def check_step_complete(self) -> None:
        """Raise RuntimeError unless the last step has told of all its phases."""
        if self.phases[-1].name != "between" or len(self.phases) <= 2:
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
        events = changes(self.snapshot["device_traces"][self.device.index])
        if len(events) < self._end_of_log:
            raise RuntimeError(f"the allocator's log holds {len(events)} events of {self._end_of_log}")
        return read_log(events[: self._end_of_log], self.phases, self.claims, self._end)

    def _moment(self) -> int:
        """Return how many blocks have come alive and died since the recording began."""
        stats = torch.cuda.memory_stats(self.device)
        return int(stats["active.all.allocated"] + stats["active.all.freed"])

    def _begin(self, name: str) -> None:
        self.phases.append(Phase(self._moment(), name, _CATEGORIES[name]))

    def _follow(self, name: str) -> Prepared:
        current = self.phases[-1].name
        if self._prepared is None or _ORDER[current] != name:
            raise RuntimeError(f"the step went from '{current}' to '{name}': '{_ORDER.get(current)}' comes next")
        self._begin(name)
        return self._prepared

    def _claim(self, category: str, tensors: Iterable[Tensor | None]) -> None:
        addresses = {
            tensor.untyped_storage().data_ptr()
            for tensor in tensors
            if tensor is not None and tensor.device == self.device
        }
        self.claims.append(Claim(self._moment(), category, addresses))


def _parameters(prepared: Prepared) -> list[Tensor]:
    optimized = (parameter for group in prepared.optimizer.param_groups for parameter in group["params"])
    return list(dict.fromkeys([*prepared.module.parameters(), *optimized]))


def _optimizer_state(prepared: Prepared) -> list[Tensor]:
    states = prepared.optimizer.state.values()
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]
