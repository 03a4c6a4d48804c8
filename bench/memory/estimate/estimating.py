"""Estimate a workload in this process, the worker: run its steps on fake tensors, and replay what they allocate."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed, OutOfMemory
from profl.bench.memory.estimate.device import DEVICE, FakeGpu
from profl.bench.memory.estimate.refusals import NotPlayed
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.gpu.profile import VirtualGpu
from profl.bench.memory.recording.budget import least_budget_bytes
from profl.bench.memory.recording.event_log import LogEntry
from profl.bench.memory.recording.holding import what_stays
from profl.bench.memory.recording.measurement import (
    NO_SEARCH,
    TRIAL_STEPS,
    read_footprint,
    run_recorded,
    with_caveats,
)
from profl.bench.memory.recording.recorder import Recorder
from profl.bench.memory.replay.allocator import Alloc, AllocatorSettings, Free, Replay, replay
from profl.bench.memory.workload import Unobserved, Workload

LARGEST_ERRORS = {"peak_requested_bytes": 0.03, "peak_allocated_bytes": 0.03, "peak_reserved_bytes": 0.18}
"""How far an estimate may be from a measurement on the virtual GPU, as a share of it: more than was seen in any of the
24 networks, two precisions and two boards of results/survey/models.csv. Least budgets are as far off as reserved bytes.
"""


def estimate_workload(
    workload: Workload,
    estimated: VirtualGpu,
    *,
    gpu: str,
    steps: int,
    least_budget: bool,
    timeline: bool,
    snapshot: Path | None,
) -> Footprint:
    """Return the workload's estimated footprint on ``estimated``, which the caller knows as ``gpu``.

    Takes and raises what `profl.bench.memory.recording.measurement.measure_workload` does, and MeasurementFailed where
    the size of something depends on values. Only events of the allocator are in the snapshot.
    """
    with FakeGpu(estimated) as device, _knowing_only_shapes(workload):
        log = _FakeLog(device)
        with Recorder(log) as recorder:
            prepared = run_recorded(workload, recorder, DEVICE, steps)
        if log.played.out_of_memory_at is not None:
            raise OutOfMemory(f"{workload.key} needs more than the {estimated.total_bytes} bytes of {estimated.name}")
        footprint = read_footprint(recorder, log, workload.key, gpu, timeline=timeline)
        del prepared
        gc.collect()
        stays = device.living_addresses
    footprint = replace(footprint, environment=replace(footprint.environment, is_virtual=True))
    if snapshot:
        snapshot.write_bytes(pickle.dumps(_snapshot(log.played)))
    if stays:
        kept = what_stays(recorder.history, stays)
        return with_caveats(footprint, kept, *([NO_SEARCH] if least_budget else []))
    if not least_budget:
        return footprint
    trial = _trial(workload, estimated)
    least_bytes = least_budget_bytes(
        lambda budget_bytes: _play(trial, budget_bytes).out_of_memory_at is None,
        footprint.peak_reserved_bytes,
        estimated.total_bytes,
    )
    if least_bytes is None:
        raise OutOfMemory(f"{steps} steps ran, {TRIAL_STEPS} did not: memory grows from step to step")
    return replace(footprint, least_budget_bytes=least_bytes)


def fits(workload: Workload, estimated: VirtualGpu, *, budget_bytes: int) -> bool:
    """Return whether `TRIAL_STEPS` steps would run with ``budget_bytes`` of GPU memory."""
    return _play(_trial(workload, estimated), min(budget_bytes, estimated.total_bytes)).out_of_memory_at is None


def run(program: object, estimated: VirtualGpu) -> NoReturn:
    """Refuse: a program wants to run.

    Raises
    ------
    GpuUnavailable
        Always.
    """
    raise GpuUnavailable(f"an estimate runs no programs, {estimated.name} neither: choose virtual:NAME or cuda")


class _FakeLog:
    """The log of a fake GPU, replayed at its end; an `AllocatorLog`."""

    device = DEVICE

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def begin(self) -> None: ...

    def moment(self) -> int:
        return len(self._gpu.events)

    def address(self, tensor: Tensor) -> int | None:
        return self._gpu.address(tensor)

    def end(self) -> None:
        self._gpu.clear_workspaces()
        self.events: list[LogEntry] = list(self._gpu.events)
        self.caveats = _caveats(self._gpu)
        self.played = _play(self.events, self._gpu.gpu.total_bytes)

    def close(self) -> None: ...

    @property
    def stats(self) -> Mapping[str, int]:
        played = self.played
        return {
            "requested_bytes.all.peak": played.peak_requested_bytes,
            "allocated_bytes.all.peak": played.peak_allocated_bytes,
            "reserved_bytes.all.peak": played.peak_reserved_bytes,
        }


def _trial(workload: Workload, estimated: VirtualGpu) -> list[LogEntry]:
    """Return the log of `TRIAL_STEPS` steps."""
    with FakeGpu(estimated) as device, _knowing_only_shapes(workload):
        prepared = workload.prepare(DEVICE)
        for _ in range(TRIAL_STEPS):
            prepared.step(Unobserved())
        events: list[LogEntry] = list(device.events)
    return events


@contextmanager
def _knowing_only_shapes(workload: Workload) -> Iterator[None]:
    try:
        yield
    except (DynamicOutputShapeException, DataDependentOutputException) as error:
        raise MeasurementFailed(
            f"{workload.key} cannot be estimated: what {error.func} returns depends on values, and an estimate knows "
            "only shapes: measure it on a GPU, or leave the operator out"
        ) from None
    except UnsupportedOperatorException as error:
        raise MeasurementFailed(
            f"{workload.key} cannot be estimated: PyTorch does not say how large what {error.func} returns is: "
            "measure it on virtual:NAME, or leave the operator out"
        ) from None
    except NotPlayed as error:
        raise MeasurementFailed(f"{workload.key} cannot be estimated: {error}") from None
    except torch.AcceleratorError:
        raise MeasurementFailed(
            f"{workload.key} cannot be estimated: it asks CUDA's driver for something, and an estimate has none: "
            "measure it on virtual:NAME"
        ) from None


def _play(events: Sequence[LogEntry], limit_bytes: int) -> Replay:
    trace = [
        Alloc(event["addr"], event["size"]) if event["action"] == "alloc" else Free(event["addr"]) for event in events
    ]
    return replay(trace, AllocatorSettings.of_environment(), limit_bytes)


def _caveats(device: FakeGpu) -> tuple[str, ...]:
    requested, _, reserved = (f"{share:.0%}" for share in LARGEST_ERRORS.values())
    bound = (
        f"estimated without a GPU: in common networks requested and allocated bytes were within {requested} of those "
        f"on the virtual GPU, reserved bytes and least budgets within {reserved}"
    )
    if device.plans_convolutions and device.gpu.cudnn_workspaces:
        bound += "; the workspaces of cuDNN's convolutions are left out"
    return (bound, *device.reads)


def _snapshot(played: Replay) -> dict[str, Any]:
    return {
        "segments": [],
        "device_traces": [
            [
                {
                    "action": event.action,
                    "addr": event.address,
                    "size": event.bytes,
                    "stream": event.stream,
                    "frames": [],
                }
                for event in played.events
            ]
        ],
        "allocator_settings": {},
    }
