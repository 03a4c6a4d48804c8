"""Training memory of torchvision's classifiers on several GPUs: a row for every model, GPU and precision."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from profl.bench.errors import in_one_line
from profl.bench.memory.errors import MeasurementFailed
from profl.bench.memory.gpu.profile import resolve
from profl.bench.memory.process.probe import Prober
from profl.bench.survey.classifier import IMAGE_SIDES, PRECISIONS, USUAL_IMAGE_SIDE, Classifier
from profl.bench.survey.table import IDENTITY, PEAKS, EntryRow, Identity, identity_of, read_table, write_table

# fmt: off
MODELS = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_y_400mf",
    "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t",
    "swin_v2_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2",
)
# fmt: on
"""Of every family of torchvision at least one."""

GPUS = ("virtual:h100", "virtual:a100-80", "virtual:t4", "virtual:jetson-orin")
USUAL_PRECISIONS = PRECISIONS[:2]


@dataclass(frozen=True)
class Entry:
    """What one row of the table measures, and where."""

    classifier: Classifier
    gpu: str


def entries(
    models: Sequence[str] = MODELS,
    gpus: Sequence[str] = GPUS,
    precisions: Sequence[str] = USUAL_PRECISIONS,
    batch_size: int = 8,
    image_size: int | None = None,
) -> list[Entry]:
    """Return every combination, each once.

    Parameters
    ----------
    image_size
        Side of the pictures in pixels. None: the usual 224, or what the model asks for.

    Raises
    ------
    InputError
        If a model or a precision is unknown, or a size is none.
    GpuUnavailable
        If a GPU is unknown.
    """
    for gpu in gpus:
        resolve(gpu)
    usual = {name: IMAGE_SIDES.get(name, USUAL_IMAGE_SIDE) for name in models}
    chosen = (
        Entry(Classifier(name, precision, batch_size, usual[name] if image_size is None else image_size), gpu)
        for gpu in gpus
        for name in models
        for precision in precisions
    )
    return list(dict.fromkeys(chosen))


def missing(wanted: Sequence[Entry], path: Path) -> list[Entry]:
    """Return the entries that the table at ``path`` lacks, and those that failed, in the same environment.

    Raises
    ------
    InputError
        If ``path`` is no such table.
    """
    known = {identity_of(row) for row in read_table(path) if row["failure"] is None}
    return [entry for entry in wanted if identity(entry) not in known]


def survey(todo: Sequence[Entry], path: Path, workers: int, on_row: Callable[[EntryRow], None]) -> None:
    """Measure the entries and put their rows into the table at ``path``, each as soon as it is there.

    An entry that cannot be measured is a row too, without bytes but with the reason. Whoever interrupts this waits
    for what is under way, which is kept.

    Parameters
    ----------
    path
        The table, as `profl.bench.survey.table` describes it; rows of other entries in it stay.
    workers
        GPUs that are measured at a time, each by a warm process of its own.
    on_row
        Told of every new row, one at a time.

    Raises
    ------
    InputError
        If ``path`` is no such table.
    GpuUnavailable
        If a GPU cannot be had.
    """
    rows = {identity_of(row): row for row in read_table(path)}
    one_at_a_time, stopped = threading.Lock(), threading.Event()

    def measure_on_one_gpu(mine: Sequence[Entry]) -> None:
        with Prober() as prober:
            for entry in mine:
                if stopped.is_set():
                    return
                row = measure_entry(entry, prober)
                with one_at_a_time:
                    rows[identity(entry)] = row
                    write_table(rows.values(), path)
                    on_row(row)

    by_gpu = [list(mine) for _, mine in groupby(sorted(todo, key=lambda entry: entry.gpu), lambda entry: entry.gpu)]
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done in as_completed([pool.submit(measure_on_one_gpu, mine) for mine in by_gpu]):
                done.result()
        finally:
            stopped.set()


def measure_entry(entry: Entry, prober: Prober) -> EntryRow:
    """Return the row of one entry.

    Raises
    ------
    GpuUnavailable
        If the GPU cannot be had.
    """
    row: EntryRow = dict(zip(IDENTITY, identity(entry), strict=True))
    began = time.perf_counter()
    try:
        footprint = prober.measure(entry.classifier, entry.gpu)
    except MeasurementFailed as error:
        return {**row, "seconds": time.perf_counter() - began, "failure": in_one_line(error)}
    return {
        **row,
        "device": footprint.environment.device_name,
        **{name: getattr(footprint, name) for name in PEAKS},
        "seconds": time.perf_counter() - began,
        "caveats": "; ".join(footprint.caveats) or None,
    }


def identity(entry: Entry) -> Identity:
    """Return what the row of ``entry`` holds in the columns of `IDENTITY`, measured in this environment."""
    import torch

    from profl.bench.memory.recording.measurement import allocator_settings

    one = entry.classifier
    cudnn = str(torch.backends.cudnn.version())
    environment = (str(torch.__version__), version("torchvision"), cudnn, allocator_settings())
    return one.name, entry.gpu, one.precision, one.batch_size, one.image_size, *environment
