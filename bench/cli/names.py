"""The names that options take. Nothing that they name is imported: they are there at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from profl.bench.data import DATASETS
from profl.bench.memory.gpu.profile import known_gpus
from profl.bench.plugins import installed
from profl.bench.presets import presets

NAMES: Mapping[str, Callable[[], Iterable[str]]] = {
    "methods": lambda: installed("profl.methods"),
    "models": lambda: installed("profl.models"),
    "datasets": lambda: DATASETS,
    "gpus": known_gpus,
    "presets": presets,
}
"""What gives the names, by kind."""
