"""Measured training memory of ProFL and its rivals in memory-constrained federated learning.

What most users need is importable from here, and loaded when it is first asked for: ``import profl`` alone takes
milliseconds. Measure a training step with `measure` (any code) or `recorded` (code on a GPU), and find the batch that
fits a memory with `fit`; write a method with `Method` and `Task`, a model with `ModelSpec` and `StagedModel`.

The rooms: ``profl.bench`` is the harness (``profl.bench.method`` the contract, ``profl.bench.memory`` the
measurement), ``profl.baselines`` the rivals, and the modules beside them are ProFL itself: progressive training of one
block at a time, for devices that cannot hold the whole model ("Breaking the Memory Wall for Heterogeneous Federated
Learning via Progressive Training", Wu, Li, Xu; KDD 2025; arXiv 2404.13349). There docstrings mark where a choice comes
from: [paper] the paper's text, [code] the authors' published supplement, [inferred] our reading of either, [default]
our own choice where both are silent, [ours] what is no part of ProFL.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profl.bench.aggregation import Update as Update
    from profl.bench.aggregation import owner_mean as owner_mean
    from profl.bench.errors import InputError as InputError
    from profl.bench.fit import fit as fit
    from profl.bench.memory import Footprint as Footprint
    from profl.bench.memory import GpuUnavailable as GpuUnavailable
    from profl.bench.memory import MeasurementFailed as MeasurementFailed
    from profl.bench.memory import OutOfMemory as OutOfMemory
    from profl.bench.memory import Prober as Prober
    from profl.bench.memory import Recording as Recording
    from profl.bench.memory import measure as measure
    from profl.bench.memory import recorded as recorded
    from profl.bench.method import FullModel as FullModel
    from profl.bench.method import LocalContext as LocalContext
    from profl.bench.method import Method as Method
    from profl.bench.method import RoundSummary as RoundSummary
    from profl.bench.method import Task as Task
    from profl.bench.method import filled as filled
    from profl.bench.method import initial_state as initial_state
    from profl.bench.models import ModelSpec as ModelSpec
    from profl.bench.models import StagedModel as StagedModel

_HOMES = {
    "profl.bench.aggregation": ("Update", "owner_mean"),
    "profl.bench.errors": ("InputError",),
    "profl.bench.fit": ("fit",),
    "profl.bench.memory": (
        "Footprint",
        "GpuUnavailable",
        "MeasurementFailed",
        "OutOfMemory",
        "Prober",
        "Recording",
        "measure",
        "recorded",
    ),
    "profl.bench.method": ("FullModel", "LocalContext", "Method", "RoundSummary", "Task", "filled", "initial_state"),
    "profl.bench.models": ("ModelSpec", "StagedModel"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
