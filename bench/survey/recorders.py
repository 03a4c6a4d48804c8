"""Ours and other recorders of memory on the same training steps, beside what the allocator itself says.

The truth is PyTorch's CUDA caching allocator on a virtual GPU with nothing recording: the peak of the bytes that were
asked of it. What the others leave out, by design:

MemTracker (`torch.distributed._tools.mem_tracker`)
    Sees the tensors that operators return: no workspace of cuBLAS and cuDNN, nothing that a kernel allocates and frees.
    It is a dispatch mode, under which autograd sums gradients out of place. On a GPU it rounds up to 512 bytes, as the
    allocator does: compare that with ``error_to_allocated``. It also runs on meta tensors, which have no values and so
    take no time to compute. (Under ``FakeTensorMode``, with the same aim, these steps cannot be prepared: a module that
    was built without weights cannot be given fake ones.)
`torch.profiler` on the CPU (``profile_memory=True``)
    Sees every allocation, of the CPU's kernels: oneDNN's scratch in place of cuDNN's.

Each records two steps, as momentum exists from the second on; ours records three, as always.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from profl.bench.cell import Recipe
from profl.bench.errors import in_one_line
from profl.bench.memory.errors import MeasurementFailed
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.workload import Prepared, Unobserved, Workload, optimizers_of
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.survey.classifier import Classifier
from profl.bench.training import TrainingWorkload

if TYPE_CHECKING:
    import pandas as pd
    import torch

_CIFAR = ModelSpec("resnet18", 64, 10)
SUBJECTS: Mapping[str, Workload] = {
    "resnet18, 64 x 32x32": TrainingWorkload("survey", _CIFAR, FullModel(_CIFAR), Recipe(batch_size=64)),
    **{f"{name}, 8 x 224x224": Classifier(name) for name in ("mobilenet_v3_small", "resnet18", "resnet50")},
    **{f"{name}, 8 x 224x224": Classifier(name) for name in ("densenet121", "vit_b_16")},
}
"""What is recorded, by name: model, pictures in a batch and their size."""

GPU = "virtual:h100"
TRUTH, CPU_STEP = "allocator, nothing recording", "plain step on the CPU"
STEPS = 2


# --- recorders: each returns the peak in bytes, asked for and in blocks, the latter only if it knows it --------------

Peaks = tuple[int | None, int | None]


def _allocator(workload: Workload, device: torch.device) -> Peaks:
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    _run(workload.prepare(device))
    statistics = torch.cuda.memory_stats(device)
    return statistics["requested_bytes.all.peak"], statistics["allocated_bytes.all.peak"]


def _mem_tracker(workload: Workload, device: torch.device) -> Peaks:
    from torch.distributed._tools.mem_tracker import MemTracker

    prepared = workload.prepare(device)
    place = next(prepared.module.parameters()).device
    tracker = MemTracker()
    tracker.track_external(prepared.module, *optimizers_of(prepared.optimizer), *prepared.inputs)
    with tracker:
        # A second step is an error unless the modules' statistics are reset; the peak of the whole stays.
        _run(prepared, between=tracker.reset_mod_stats)
    return tracker.get_tracker_snapshot("peak")[place]["Total"], None


def _meta_mem_tracker(workload: Workload, device: torch.device) -> Peaks:
    import torch

    return _mem_tracker(workload, torch.device("meta"))


def _profiler(workload: Workload, device: torch.device) -> Peaks:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        _run(workload.prepare(device))
    results = profiler.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in results if event.name() == "[memory]"]
    live_bytes = peak_bytes = 0
    for _, change_bytes in sorted(changes, key=lambda change: change[0]):
        live_bytes += change_bytes
        peak_bytes = max(peak_bytes, live_bytes)
    return peak_bytes, None


def _run(prepared: Prepared, between: Callable[[], None] = lambda: None) -> None:
    for _ in range(STEPS):
        prepared.step(Unobserved())
        between()


Record = Callable[[Workload, "torch.device"], Peaks]
ON_GPU: Mapping[str, Record] = {
    TRUTH: _allocator,
    "MemTracker, GPU": _mem_tracker,
}
"""What records in a process that has the virtual GPU."""

ON_CPU: Mapping[str, Record] = {
    "MemTracker, CPU": _mem_tracker,
    "MemTracker, meta tensors": _meta_mem_tracker,
    "torch.profiler, CPU": _profiler,
}
"""What records in a process that has no GPU."""

OURS = {"profl, virtual:h100": "virtual:h100", "profl, virtual:sm_90": "virtual:sm_90"}
"""Our recorder, and the GPUs on which it runs."""


# --- each recorder has a process of its own ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """A recorder at work on a training step: a program for the worker that has a GPU."""

    record: Record
    workload: Workload

    @property
    def key(self) -> str:
        return f"{self.record.__name__} of {self.workload.key}"

    def run(self, device: torch.device, report: Callable[[object], None]) -> tuple[Peaks, float]:
        return _timed(lambda: self.record(self.workload, device))


@dataclass(frozen=True)
class _Again:
    """The same workload under another name, to be measured again."""

    workload: Workload
    number: int

    @property
    def key(self) -> str:
        return f"{self.workload.key}, number {self.number}"

    def prepare(self, device: torch.device) -> Prepared:
        return self.workload.prepare(device)


def _timed(record: Callable[[], Peaks]) -> tuple[Peaks, float]:
    peaks = record()  # not timed: what happens once in a process is not what it costs
    return peaks, _seconds(record)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _cpu_trial(trial: _Trial) -> tuple[Peaks, float]:
    import torch

    torch.set_num_threads(1)
    return trial.run(torch.device("cpu"), lambda value: None)


def cpu_step_seconds(workload: Workload) -> float:
    """Return how long a plain training step takes on this process's CPU with one thread, once it is warm."""
    import torch

    torch.set_num_threads(1)
    prepared = workload.prepare(torch.device("cpu"))
    with torch.no_grad():  # no denormal numbers, which would be slow
        for tensor in (*prepared.module.parameters(), *prepared.inputs):
            if tensor.is_floating_point():
                tensor.normal_(std=0.02)
    return min(_seconds(lambda: prepared.step(Unobserved())) for _ in range(3))


def _cpu_step(workload: Workload) -> tuple[Peaks, float]:
    return (None, None), cpu_step_seconds(workload)


Outcome = tuple[str, str, Peaks, float | None, str | None]


def _outcomes(subjects: Mapping[str, Workload]) -> Iterator[Outcome]:
    """Yield subject, recorder, peaks, seconds and failure of every trial."""

    def tried(subject: str, recorder: str, trial: Callable[[], tuple[Peaks, float]]) -> Outcome:
        try:
            return subject, recorder, *trial(), None
        except MeasurementFailed as error:
            return subject, recorder, (None, None), None, in_one_line(error)
        except (RuntimeError, NotImplementedError, TypeError, AssertionError) as error:  # of the other recorders
            return subject, recorder, (None, None), None, f"{type(error).__name__}: {in_one_line(error)}"

    for recorder, record in ON_GPU.items():
        with Prober() as prober:
            for subject, workload in subjects.items():
                run = partial(prober.run, _Trial(record, workload), GPU, lambda value: None)
                yield tried(subject, recorder, run)
    for recorder, gpu in OURS.items():
        with Prober() as prober:
            for subject, workload in subjects.items():
                yield tried(subject, recorder, partial(_timed, _ours(prober, workload, gpu)))
    for recorder, record in ON_CPU.items():
        with _own_process() as process:
            for subject, workload in subjects.items():
                yield tried(subject, recorder, process.submit(_cpu_trial, _Trial(record, workload)).result)
    with _own_process() as process:
        for subject, workload in subjects.items():
            yield tried(subject, CPU_STEP, process.submit(_cpu_step, workload).result)


def _ours(prober: Prober, workload: Workload, gpu: str) -> Callable[[], Peaks]:
    fresh = count()  # equal keys are measured only once

    def record() -> Peaks:
        footprint = prober.measure(_Again(workload, next(fresh)), gpu, least_budget=False)
        return footprint.peak_requested_bytes, footprint.peak_allocated_bytes

    return record


def _own_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


# --- the table --------------------------------------------------------------------------------------------------------

COLUMNS = (
    "subject",
    "recorder",
    "peak_bytes",
    "error_to_requested",
    "error_to_allocated",
    "seconds",
    "cpu_step_seconds",
    "failure",
)
"""Of the CSV file. ``peak_bytes`` are those asked for; ``error_to_requested`` and ``error_to_allocated`` are relative
and signed, to what the allocator says was asked of it and was in its blocks: 0.01 is one percent too much.
``seconds`` is how long preparing and recording took in a process that had done it before, ``cpu_step_seconds`` how
long one training step of the subject takes on the CPU with one thread. Empty: unknown; ``failure`` says why."""


def compare(subjects: Mapping[str, Workload], on_outcome: Callable[[str, str, float | None], object]) -> pd.DataFrame:
    """Let every recorder record every subject; return the table, ordered by subject, with `COLUMNS`.

    Parameters
    ----------
    on_outcome
        Told the subject, the recorder and its seconds whenever one is done; None if it failed.

    Raises
    ------
    GpuUnavailable
        If the virtual GPU cannot be had.
    """
    import pandas as pd

    outcomes = []
    for outcome in _outcomes(subjects):
        outcomes.append(outcome)
        subject, recorder, _, seconds, _ = outcome
        on_outcome(subject, recorder, seconds)
    truths = {subject: peaks for subject, recorder, peaks, _, _ in outcomes if recorder == TRUTH}
    steps = {subject: seconds for subject, recorder, _, seconds, _ in outcomes if recorder == CPU_STEP}
    rows = []
    for subject, recorder, (peak_bytes, _), seconds, failure in outcomes:
        errors = (_relative(peak_bytes, truth_bytes) for truth_bytes in truths[subject])
        rows.append((subject, recorder, peak_bytes, *errors, seconds, steps[subject], failure))
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"peak_bytes": "Int64"})
    return table.sort_values("subject", key=lambda names: names.map(list(subjects).index), kind="stable")


def _relative(size_bytes: int | None, truth_bytes: int | None) -> float | None:
    return None if size_bytes is None or truth_bytes is None else size_bytes / truth_bytes - 1
