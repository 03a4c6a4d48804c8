"""What is measured of a cell before it is run: every task of its method, and the full model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from profl.bench.cell import Cell
from profl.bench.experiment import Experiment
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.timeline import pack
from profl.bench.method import FullModel
from profl.bench.operations import operations_per_step
from profl.bench.training import TrainingWorkload


@dataclass(frozen=True)
class Measured:
    """What a cell's method needs, measured.

    Parameters
    ----------
    footprints
        By task key.
    operations
        Floating-point operations of the step that was measured, by task key.
    full_model_bytes
        Least budget of plain training of the full model.
    """

    footprints: Mapping[str, Footprint]
    operations: Mapping[str, int]
    full_model_bytes: int

    @property
    def least_budgets(self) -> dict[str, int]:
        """Least budgets in bytes, by task key."""
        return {key: _least(footprint) for key, footprint in self.footprints.items()}

    def entries(self, cell: Cell) -> list[dict[str, Any]]:
        """Return the rows of ``footprints.json``."""
        measured = cell.as_measured
        scale = {
            "measured_model": measured.model,
            "measured_width": measured.width,
            "batch_size": measured.recipe.batch_size,
        }
        return [
            {
                "task": key,
                **scale,
                "gpu": cell.gpu,
                "operations_per_step": self.operations[key],
                **footprint.to_dict(),
            }
            for key, footprint in self.footprints.items()
        ]

    def timelines(self) -> dict[str, Any]:
        """Return the content of ``timelines.json``."""
        return {key: pack(footprint.timeline) for key, footprint in self.footprints.items() if footprint.timeline}


def _least(footprint: Footprint) -> int:
    if footprint.least_budget_bytes is None:
        raise ValueError(f"the least budget of {footprint.key} was not measured")
    return footprint.least_budget_bytes


def workloads(experiment: Experiment) -> dict[str, TrainingWorkload]:
    """Return the steps to measure for a cell, by task key: every task its method may offer, as it is measured."""
    cell, model = experiment.cell.as_measured, experiment.measured_model
    technique = experiment.technique
    return {
        task.key: TrainingWorkload(cell.method, model, task, cell.recipe, technique)
        for task in experiment.measured_tasks
    }


def measure_step(
    step: TrainingWorkload,
    gpu: str,
    prober: Prober,
    *,
    least_budget: bool = True,
    timeline: bool = False,
    snapshot: Path | None = None,
) -> tuple[Footprint, int]:
    """Return a step's footprint and its operations, counted here while the worker process measures.

    Parameters and errors are those of `Prober.measure`.
    """
    count = partial(operations_per_step, step.task, step.model, step.recipe, step.technique)

    def count_ahead() -> None:
        with suppress(Exception, SystemExit):  # of a step that fails, the measurement tells more: it is told first
            count()

    footprint = prober.measure(
        step, gpu, least_budget=least_budget, timeline=timeline, snapshot=snapshot, meanwhile=count_ahead
    )
    return footprint, count()


def measure_tasks(experiment: Experiment, prober: Prober) -> Measured:
    """Measure every task of a cell's method, and plain training of the full model, at the scale it is measured as."""
    cell, model = experiment.cell.as_measured, experiment.measured_model
    steps = {key: measure_step(step, cell.gpu, prober, timeline=True) for key, step in workloads(experiment).items()}
    full = TrainingWorkload("full", model, FullModel(model), cell.recipe)
    return Measured(
        {key: footprint for key, (footprint, _) in steps.items()},
        {key: operations for key, (_, operations) in steps.items()},
        _least(prober.measure(full, cell.gpu)),
    )
