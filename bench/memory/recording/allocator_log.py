"""What an allocator does, event by event: PyTorch's own, which keeps a log, with every C++ stack and who asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from profl.bench.memory.gpu.unmodelled import unmodelled
from profl.bench.memory.recording.event_log import STEP, LogEntry, changes

TUNED = (
    "tries configurations of compiled kernels, and what that takes is counted: PyTorch keeps the choice on disk, so "
    "measure again for a step that has it"
)
_TUNES = "benchmark_all_configs"  # of torch._inductor.runtime.triton_heuristics


class AllocatorLog(Protocol):
    """Everything that is allocated and released on ``device`` from `begin` to `end`.

    After `end`, ``events`` holds it, ``stats`` the peaks as PyTorch's allocator names its statistics, and ``caveats``
    what a GPU would do otherwise.
    """

    device: torch.device

    @property
    def events(self) -> Sequence[LogEntry]: ...

    @property
    def stats(self) -> Mapping[str, int]: ...

    @property
    def caveats(self) -> tuple[str, ...]: ...

    def begin(self) -> None:
        """Keep the log from here on."""

    def moment(self) -> int:
        """Return how many events there are so far."""

    def address(self, tensor: Tensor) -> int | None:
        """Return where the tensor's memory begins; None if it is not on the device."""

    def end(self) -> None:
        """Let cuBLAS give its workspaces back, which are the last events, and take the log down."""

    def close(self) -> None:
        """Keep no log any more, whatever has happened."""


class CudaLog:
    """The log of PyTorch's CUDA caching allocator, which is an `AllocatorLog`.

    What already lives on ``device`` when it begins counts as allocated first. After `end`, ``snapshot`` is what
    PyTorch's own memory viewer shows.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stats: Mapping[str, int] = {}
        self.caveats: tuple[str, ...] = ()
        self.snapshot: dict[str, Any] = {}

    def begin(self) -> None:
        torch.cuda.memory._record_memory_history(
            "all", context="alloc", stacks="all", max_entries=sys.maxsize, clear_history=True
        )
        self._allocated_before = _living(torch.cuda.memory._snapshot(self.device), self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        torch.cuda.reset_accumulated_memory_stats(self.device)
        torch.cuda.memory._set_memory_metadata(STEP)
        unmodelled()  # of earlier measurements

    def moment(self) -> int:
        blocks = torch.cuda.memory_stats_as_nested_dict(self.device)["active"]["all"]
        return len(self._allocated_before) + int(blocks["allocated"] + blocks["freed"])

    def address(self, tensor: Tensor) -> int | None:
        try:
            return tensor.untyped_storage().data_ptr() if tensor.device == self.device else None
        except RuntimeError:  # it wraps others and does not say which
            return None

    def end(self) -> None:
        torch.cuda.synchronize(self.device)
        self.stats = torch.cuda.memory_stats(self.device)
        torch._C._cuda_clearCublasWorkspaces()
        self._end = self.moment()
        self.snapshot = torch.cuda.memory._snapshot(self.device)
        self.caveats = (*unmodelled(), *([TUNED] if self._tunes() else []))

    def close(self) -> None:
        torch.cuda.memory._set_memory_metadata("")
        torch.cuda.memory._record_memory_history(None)

    def _tunes(self) -> bool:
        """Whether kernels were tried: only where PyTorch's compiler is imported is there anything to look for."""
        if "torch._inductor.runtime.triton_heuristics" not in sys.modules:
            return False
        events = self.snapshot["device_traces"][self.device.index]
        return any(frame["name"] == _TUNES for event in events for frame in event.get("frames", ()))

    @property
    def events(self) -> Sequence[LogEntry]:
        """What has happened.

        Raises
        ------
        RuntimeError
            If the log is not complete.
        """
        events = [*self._allocated_before, *changes(self.snapshot["device_traces"][self.device.index])]
        if len(events) < self._end:
            raise RuntimeError(f"the allocator's log holds {len(events)} events of {self._end}")
        return events[: self._end]


def living_addresses(device: torch.device) -> set[int]:
    """Return where the blocks begin that are allocated now."""
    return {event["addr"] for event in _living(torch.cuda.memory._snapshot(device), device)}


def _living(snapshot: Mapping[str, Any], device: torch.device) -> list[LogEntry]:
    """Return the allocations of all blocks that live, as a log would have told them."""
    return [
        {"action": "alloc", "addr": block["address"], "size": block["requested_size"]}
        for segment in snapshot["segments"]
        if segment["device"] == device.index
        for block in segment["blocks"]
        if block["state"].startswith("active")
    ]
