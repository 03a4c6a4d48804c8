"""What this machine can do: one finding per part that measuring or training needs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version

import torch

from profl.bench.cell import Recipe
from profl.bench.fleet import format_bytes
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


EXTRAS = {
    "ray": "sweeps on a Ray cluster (--engine ray)",
    "tensorboard": "--log-to tensorboard",
    "wandb": "--log-to wandb",
    "mlflow": "--log-to mlflow",
    "eight-bit": "the technique 8-bit-momentum",
}
"""What the package's extras are for."""


@dataclass(frozen=True)
class Finding:
    """The state of one part, and what to do if something is missing (None if nothing is)."""

    part: str
    state: str
    remedy: str | None = None


@dataclass(frozen=True)
class Check:
    """A part to look at, and what does: it may take seconds."""

    part: str
    look: Callable[[], Finding]


def examine() -> Iterator[Check]:
    """Yield what there is to look at: versions, plug-ins, this machine's GPUs and the virtual ones.

    Of virtual GPUs one of each capability is started. Each check is to be made before the next is asked for.
    """
    known = {
        "profl": version("profl"),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        "cores": str(os.cpu_count()),
        "processor": _processor(),
    }
    for part, state in known.items():
        yield Check(part, partial(Finding, part, state))
    for name, purpose in EXTRAS.items():
        yield _attempt(f"extra {name}", partial(_extra, name, purpose))
    for name in methods():
        yield _attempt(f"method {name}", partial(_module, name))
    for name in models():
        yield _attempt(f"model {name}", partial(_stages, name))
    for index in range(torch.cuda.device_count()):
        yield _attempt(f"{PHYSICAL}:{index}", partial(_card, index))
    if not torch.cuda.is_available():  # not a fault: the virtual ones stand in
        absent = "no GPU and driver on this machine; virtual GPUs stand in"
        yield Check(PHYSICAL, partial(Finding, PHYSICAL, absent))
    step = TrainingWorkload("doctor", _SMALL, FullModel(_SMALL), Recipe(batch_size=1))
    tried = _one_of_each_capability()
    with Prober() as prober:
        for name in ([PHYSICAL] if torch.cuda.is_available() else []) + list(tried.values()):
            yield _attempt(name, partial(_measured, prober, step, name))
    for profile in profiles():
        if profile.name not in tried.values():
            alike = f"not started; it runs as {tried[profile.gpu.capability]} does"
            yield Check(profile.name, partial(Finding, profile.name, alike))


def _extra(name: str, purpose: str) -> str:
    """Return which version of what an extra installs there is; it is not a fault that there is none."""
    needs = [need for need in requires("profl") or [] if re.search(rf"extra == ['\"]{name}['\"]", need)]
    packages = [re.split(r"[^A-Za-z0-9._-]", need, maxsplit=1)[0] for need in needs]
    try:
        found = ", ".join(f"{package} {version(package)}" for package in packages)
    except PackageNotFoundError as absent:
        return f"not installed, {purpose} needs {absent.name}: pip install 'profl[{name}]'"
    return f"{found}, for {purpose}"


def _processor() -> str:
    if has_avx2():
        return "AVX2: training gives the bits of every x86-64 that has it"
    return "no AVX2: training gives the bits of processors of its kind"


def _one_of_each_capability() -> dict[tuple[int, int], str]:
    """Return the profile with the most published figures for each: a worker starts in seconds, all take minutes."""
    chosen: dict[tuple[int, int], str] = {}
    for profile in sorted(profiles(), key=lambda profile: (len(profile.unconfirmed), profile.name)):
        chosen.setdefault(profile.gpu.capability, profile.name)
    return dict(sorted(chosen.items(), key=lambda one: one[1]))


def _card(index: int) -> str:
    """Return which GPU of this machine it is."""
    card = torch.cuda.get_device_properties(index)
    return f"{card.name}, sm_{card.major}{card.minor}, {format_bytes(card.total_memory)}"


def _module(method: str) -> str:
    return method_class(method).__module__


def _stages(model: str) -> str:
    return f"{len(ModelSpec(model, width=1, classes=2).skeleton().stages)} stages"


def _measured(prober: Prober, step: TrainingWorkload, gpu: str) -> str:
    footprint = prober.measure(step, gpu, least_budget=False)
    return f"measures ({footprint.environment.device_name}, cuDNN {footprint.environment.cudnn})"


def _attempt(part: str, look: Callable[[], str]) -> Check:
    def attempted() -> Finding:
        try:
            return Finding(part, look())
        except GpuUnavailable as error:
            return Finding(part, "not available", str(error))
        except Exception as error:
            return Finding(part, "broken", f"{type(error).__name__}: {error}")

    return Check(part, attempted)
