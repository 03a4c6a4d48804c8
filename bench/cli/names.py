"""The names that options take. Nothing that they name is imported: they are there at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from profl.bench.data import DATASETS
from profl.bench.plugins import installed
from profl.bench.presets import presets


def _gpus() -> list[str]:
    from profl.bench.memory.gpu.profile import known_gpus  # and with it the whole room of memory

    return known_gpus()


NAMES: Mapping[str, Callable[[], Iterable[str]]] = {
    "methods": lambda: sorted(installed("profl.methods")),
    "models": lambda: sorted(installed("profl.models")),
    "datasets": lambda: DATASETS,
    "gpus": _gpus,
    "presets": presets,
}
"""What gives the names, by kind."""
