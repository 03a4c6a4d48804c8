"""What this machine can do: one finding per part that measuring or training needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import torch

from profl.bench.cell import Recipe
from profl.bench.instructions import has_avx2
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu.profile import PHYSICAL, profiles
from profl.bench.memory.process.probe import Prober
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.models.registry import models
from profl.bench.registry import method_class, methods
from profl.bench.training import TrainingWorkload

_SMALL = ModelSpec("resnet18", width=1, classes=2)


@dataclass(frozen=True)
class Finding:
    """The state of one part, and what to do if something is missing (None if nothing is)."""

    part: str
    state: str
    remedy: str | None = None


def examine() -> Iterator[Finding]:
    """Yield the findings: versions, plug-ins, this machine's GPU, and a virtual one of each capability, started."""
    yield Finding("profl", version("profl"))
    yield Finding("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}")
    yield Finding("cores", str(os.cpu_count()))
    same = "AVX2: training gives the bits of every x86-64 that has it"
    yield Finding("processor", same if has_avx2() else "no AVX2: training gives the bits of processors of its kind")
    for name in methods():
        yield _attempt(f"method {name}", partial(_module, name))
    for name in models():
        yield _attempt(f"model {name}", partial(_stages, name))
    step = TrainingWorkload("doctor", _SMALL, FullModel(_SMALL), Recipe(batch_size=1))
    with Prober() as prober:
        for name in ([PHYSICAL] if torch.cuda.is_available() else []) + _one_of_each_capability():
            yield _attempt(name, partial(_measured, prober, step, name))
    if not torch.cuda.is_available():  # not a fault: the virtual ones stand in
        yield Finding(PHYSICAL, "no GPU and driver on this machine; virtual GPUs stand in")


def _one_of_each_capability() -> list[str]:
    """Return the profile with the most published figures for each: a worker starts in seconds, all take minutes."""
    chosen: dict[tuple[int, int], str] = {}
    for profile in sorted(profiles(), key=lambda profile: (len(profile.unconfirmed), profile.name)):
        chosen.setdefault(profile.gpu.capability, profile.name)
    return sorted(chosen.values())


def _module(method: str) -> str:
    return method_class(method).__module__


def _stages(model: str) -> str:
    return f"{len(ModelSpec(model, width=1, classes=2).skeleton().stages)} stages"


def _measured(prober: Prober, step: TrainingWorkload, gpu: str) -> str:
    footprint = prober.measure(step, gpu, least_budget=False)
    return f"measures ({footprint.environment.device_name}, cuDNN {footprint.environment.cudnn})"


def _attempt(part: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(part, look())
    except GpuUnavailable as error:
        return Finding(part, "not available", str(error))
    except Exception as error:
        return Finding(part, "broken", f"{type(error).__name__}: {error}")
