"""The tools by name, and what each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from profl.bench.errors import InputError
from profl.bench.tracking.contract import Tracker
from profl.bench.tracking.to_mlflow import MLflow
from profl.bench.tracking.to_tensorboard import TensorBoard
from profl.bench.tracking.to_wandb import WeightsAndBiases

TRACKERS: dict[str, Callable[[Path], Tracker]] = {tool.name: tool for tool in (TensorBoard, WeightsAndBiases, MLflow)}
"""By the name that ``--log-to`` takes, which is that of the package and of the extra that installs it, too."""


def trackers(names: Sequence[str], run: Path) -> list[Tracker]:
    """Return the tools of these names, each once, for the run in a folder.

    Raises
    ------
    InputError
        If the package of one is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise InputError(f"--log-to {name} needs the package {name}: pip install 'profl[{name}]'")
    return [TRACKERS[name](run) for name in dict.fromkeys(names)]
