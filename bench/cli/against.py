"""``profl measure --against``: the same steps on another GPU or from a file, and how they differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from profl.bench.memory.comparison.against import Comparison
from profl.bench.memory.comparison.matching import AUTO, matching_gpu
from profl.bench.memory.comparison.measured_run import measure_run
from profl.bench.memory.comparison.run_file import SUFFIXES, find_run, read_runs
from profl.bench.memory.comparison.side import Description, Side
from profl.bench.memory.comparison.snapshot_side import is_snapshot, snapshot_side
from profl.bench.memory.comparison.tables import comparison_tables
from profl.bench.memory.gpu.profile import resolve
from profl.bench.technique import PLAIN

if TYPE_CHECKING:
    from profl.bench.memory.process.probe import Prober
    from profl.bench.training import TrainingWorkload

OtherRun = Callable[["TrainingWorkload", Description], Side]


def described(workload: TrainingWorkload, model: str, dataset: str, rounds: int) -> Description:
    """Return everything that decides the bytes of a task, in the words of the command line."""
    recipe = workload.recipe
    return {
        "method": workload.scope,
        "task": workload.task.key,
        "model": model,
        "width": workload.model.width,
        "batch_size": recipe.batch_size,
        "dataset": dataset,
        "classes": workload.model.classes,
        "rounds": rounds,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        **({} if workload.technique == PLAIN else {"technique": str(workload.technique)}),
    }


def other_run(against: str, gpu: str, prober: Prober) -> OtherRun:
    """Return what gives the run to compare with.

    ``against`` is a file that ``--save`` wrote (``.json``, ``.json.gz``), a snapshot of PyTorch's (``.pickle``), or a
    GPU, on which to measure.
    """
    if against == AUTO:
        against = matching_gpu(prober, gpu)
    if is_snapshot(Path(against)):
        side = snapshot_side(Path(against))
        return lambda workload, description: side
    if Path(against).suffix in SUFFIXES:
        runs = read_runs(Path(against))
        return lambda workload, description: find_run(runs, description, against)
    resolve(against)
    return lambda workload, description: measure_run(prober, workload, against, description)


def print_comparison(console: Console, title: str, comparison: Comparison) -> None:
    """Print tables, the verdict and what else differs."""
    console.print(title, style="bold", highlight=False, markup=False)
    for table in comparison_tables(comparison):
        console.print(table)
    for line in (comparison.verdict(), *(f"careful: {caution}" for caution in comparison.cautions())):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
