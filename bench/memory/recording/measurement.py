"""Measure a workload in this process, the worker, which does nothing else. Begins and ends clean."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from profl.bench.errors import InputError
from profl.bench.memory.footprint import Environment, Footprint
from profl.bench.memory.gpu.profile import PHYSICAL
from profl.bench.memory.limit import memory_limit
from profl.bench.memory.nvml import process_used_bytes
from profl.bench.memory.recording import attribution
from profl.bench.memory.recording.allocator_log import AllocatorLog, CudaLog, living_addresses
from profl.bench.memory.recording.budget import least_budget_bytes
from profl.bench.memory.recording.event_log import History
from profl.bench.memory.recording.foresight import Trial, foreseen_least_budget_bytes
from profl.bench.memory.recording.holding import growth, idleness, what_stays
from profl.bench.memory.recording.recorder import Recorder
from profl.bench.memory.replay.settings import AllocatorSettings
from profl.bench.memory.timeline import Timeline
from profl.bench.memory.workload import CATEGORIES, Prepared, Unobserved, Workload

_SETTINGS = (
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "CUBLAS_WORKSPACE_CONFIG",
)
_VIRTUAL = "virtual "
_PATIENCE_SECONDS = 2
NO_SEARCH = "least budget not searched for: what stays on the GPU would be measured with every trial"

NOTHING = "nothing was asked of the GPU: build modules and examples on the device that is given"

TRIAL_STEPS = 10
"""Steps that a workload must run under a limit. Memory that is short fails by the third in most cases, but a few
tasks went on to the fourth to sixth; whatever ran ten ran thirty."""


def measure_workload(
    workload: Workload,
    gpu: str,
    device: torch.device,
    *,
    steps: int,
    least_budget: bool,
    timeline: bool,
    snapshot: Path | None,
) -> Footprint:
    """Return the workload's footprint on ``device``, which the caller knows as ``gpu``.

    Parameters
    ----------
    steps
        Training steps to run; momentum and the like exist from the second on.
    least_budget
        Whether to search for the least budget, which runs dozens of steps more.
    timeline
        Whether to keep it.
    snapshot
        File for the allocator's state and log, as https://pytorch.org/memory_viz reads it.

    Raises
    ------
    torch.OutOfMemoryError
        If the whole GPU is too small.
    RuntimeError
        If the bookkeeping does not agree with the allocator's statistics to the byte.
    """
    log = CudaLog(device)
    with Recorder(log) as recorder:
        prepared = run_recorded(workload, recorder, device, steps)
    footprint = read_footprint(recorder, log, workload.key, gpu, timeline=timeline)
    del prepared
    if snapshot:
        snapshot.write_bytes(pickle.dumps(log.snapshot))
    if not clean(device):
        kept = what_stays(recorder.history, living_addresses(device))
        return with_caveats(footprint, kept, *([NO_SEARCH] if least_budget else []))
    if not least_budget:
        return footprint
    try:
        least_bytes = _least_budget_bytes(workload, device, footprint)
    except _LeftBehind:
        return with_caveats(footprint, NO_SEARCH)
    if least_bytes is None:
        raise torch.OutOfMemoryError(f"{steps} steps ran, {TRIAL_STEPS} did not: memory grows from step to step")
    return replace(footprint, least_budget_bytes=least_bytes)


def run_recorded(workload: Workload, recorder: Recorder, device: torch.device, steps: int) -> Prepared:
    """Prepare the workload and run its steps while ``recorder`` observes; return what is then alive."""
    prepared = workload.prepare(device)
    recorder.prepared(prepared.module, prepared.optimizer, prepared.inputs)
    for _ in range(steps):
        with recorder.step():
            prepared.step(recorder)
    return prepared


def read_footprint(recorder: Recorder, log: AllocatorLog, key: str, gpu: str, *, timeline: bool) -> Footprint:
    """Return what ``recorder`` has made of ``log``, as the footprint of ``key``; its least budget is unknown."""
    environment = _environment(gpu, log.device)
    uuid = str(torch.cuda.get_device_properties(log.device).uuid)
    history, stats = recorder.history, log.stats
    activation_bytes = history.live_bytes[:, CATEGORIES.index("activations")]
    nothing = () if stats["requested_bytes.all.peak"] else (NOTHING,)
    stages = attribution.stages(history, recorder.stage_parameter_bytes)
    return Footprint(
        key=key,
        steps=recorder.steps,
        peak_requested_bytes=stats["requested_bytes.all.peak"],
        peak_allocated_bytes=stats["allocated_bytes.all.peak"],
        peak_reserved_bytes=stats["reserved_bytes.all.peak"],
        least_budget_bytes=None,
        parameter_bytes=sum(stage.parameter_bytes for stage in stages),
        peak_activation_bytes=int(activation_bytes.max()),
        categories_at_peak=dict(zip(CATEGORIES, history.live_bytes[history.peak_moment].tolist(), strict=True)),
        largest_blocks=attribution.largest_blocks(history),
        nvml_used_bytes=None if environment.is_virtual else process_used_bytes(uuid),
        environment=environment,
        timeline=_timeline(history) if timeline else None,
        attribution=attribution.portions(history),
        stages=stages,
        peak_position=attribution.peak_position(history),
        caveats=(*log.caveats, *growth(history), *nothing, *idleness(history)),
    )


def fits(workload: Workload, device: torch.device, budget_bytes: int) -> bool:
    """Run `TRIAL_STEPS` steps with ``budget_bytes`` of GPU memory; return whether it was enough."""
    try:
        with memory_limit(device, budget_bytes):
            _run_unobserved(workload, device, TRIAL_STEPS)
    except torch.OutOfMemoryError:
        return False
    return True


class _LeftBehind(Exception):
    """Something is on the GPU that would be measured next."""


def _least_budget_bytes(workload: Workload, device: torch.device, footprint: Footprint) -> int | None:
    """Search for the least budget; on a real GPU without foresight, as its addresses are not those of the model."""
    bounds = footprint.peak_reserved_bytes, footprint.environment.total_bytes
    settings = _modelled_settings() if footprint.environment.is_virtual else None
    if settings is None:
        return least_budget_bytes(lambda budget_bytes: _trial(workload, device, budget_bytes).fits, *bounds)
    return foreseen_least_budget_bytes(lambda budget_bytes: _trial(workload, device, budget_bytes), *bounds, settings)


def _modelled_settings() -> AllocatorSettings | None:
    """Return the allocator's settings, None if the model of it does not know them."""
    try:
        return AllocatorSettings.of_environment()
    except InputError:
        return None


def _trial(workload: Workload, device: torch.device, budget_bytes: int) -> Trial:
    if torch.cuda.memory_allocated(device):  # by a trial that ended in an error
        clean(device)
    torch.cuda.memory._record_memory_history(
        "all", context=None, stacks="python", max_entries=sys.maxsize, clear_history=True
    )
    try:
        enough = fits(workload, device, budget_bytes)
        log = torch.cuda.memory._snapshot(device)["device_traces"][device.index]
    finally:
        torch.cuda.memory._record_memory_history(None)
    if not clean(device):
        raise _LeftBehind
    return Trial(enough, log)


def _run_unobserved(workload: Workload, device: torch.device, steps: int) -> None:
    prepared = workload.prepare(device)
    for _ in range(steps):
        prepared.step(Unobserved())
    torch.cuda.synchronize(device)


def clean(device: torch.device) -> bool:
    """Give everything back, so that the next measurement starts from nothing; return whether that worked."""
    gc.collect()
    leave_process_group()
    torch._C._cuda_clearCublasWorkspaces()
    # After an error in backward autograd's own thread holds on to a few tensors until it next gets to run.
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while torch.cuda.memory_allocated(device) and time.monotonic() < deadline:
        time.sleep(0.001)
    if torch.cuda.memory_allocated(device):
        torch.compiler.reset()  # it may hold on to what it has compiled
        gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device) == 0


def leave_process_group() -> None:
    """End the process group if there is one: the next measurement begins its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def with_caveats(footprint: Footprint, *caveats: str) -> Footprint:
    """Return the footprint with these caveats as its last."""
    return replace(footprint, caveats=(*footprint.caveats, *caveats))


def gpu_name(device: torch.device) -> str:
    """Return ``virtual:NAME`` or ``cuda``, which is how this process's GPU is asked for."""
    name = torch.cuda.get_device_name(device)
    return f"virtual:{name.removeprefix(_VIRTUAL)}" if name.startswith(_VIRTUAL) else PHYSICAL


def allocator_settings() -> str:
    """Return the variables that change what PyTorch's allocator does, or ``default``."""
    return " ".join(f"{name}={os.environ[name]}" for name in _SETTINGS if os.environ.get(name)) or "default"


def _environment(gpu: str, device: torch.device) -> Environment:
    properties = torch.cuda.get_device_properties(device)
    return Environment(
        gpu=gpu,
        device_name=properties.name,
        is_virtual=properties.name.startswith(_VIRTUAL),
        total_bytes=properties.total_memory,
        torch=str(torch.__version__),
        cuda=str(torch.version.cuda),
        cudnn=str(torch.backends.cudnn.version()),
        allocator_settings=allocator_settings(),
    )


def _timeline(history: History) -> Timeline:
    columns = zip(CATEGORIES, history.live_bytes.T.tolist(), strict=True)
    return Timeline(dict(columns), tuple((phase.moment, phase.name) for phase in history.phases))
