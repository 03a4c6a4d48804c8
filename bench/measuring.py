"""What is measured of a cell before it is run: every task of its method, and the full model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from profl.bench.cell import Cell
from profl.bench.experiment import Experiment
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.pausing import Pausing, finished
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


def measure_step(step: TrainingWorkload, gpu: str, prober: Prober, **options: Any) -> tuple[Footprint, int]:
    """Return a step's footprint and its operations, counted here while the worker process measures.

    Options and errors are those of `Prober.measure`.
    """
    return finished(measuring_step(step, gpu, prober, **options))


def measuring_step(step: TrainingWorkload, gpu: str, prober: Prober, **options: Any) -> Pausing[tuple[Footprint, int]]:
    """Do what `measure_step` does, with pauses in which nothing else is asked of the GPU."""
    count = partial(operations_per_step, step.task, step.model, step.recipe, step.technique)
    with closing(prober.measuring(step, gpu, **options)) as measuring:
        try:
            next(measuring)
        except StopIteration as known:
            footprint: Footprint = known.value
        else:
            with suppress(Exception, SystemExit):  # of a step that fails, the measurement tells more: it is told first
                count()
            footprint = yield from measuring
    return footprint, count()


def measure_tasks(experiment: Experiment, prober: Prober) -> Measured:
    """Measure every task of a cell's method, and plain training of the full model, at the scale it is measured as."""
    return finished(measuring_tasks(experiment, prober))


def measuring_tasks(experiment: Experiment, prober: Prober) -> Pausing[Measured]:
    """Do what `measure_tasks` does, with pauses in which nothing else is asked of the cell's GPU."""
    cell, model = experiment.cell.as_measured, experiment.measured_model
    footprints, operations = {}, {}
    for key, step in workloads(experiment).items():
        footprints[key], operations[key] = yield from measuring_step(step, cell.gpu, prober, timeline=True)
    full = yield from prober.measuring(TrainingWorkload("full", model, FullModel(model), cell.recipe), cell.gpu)
    return Measured(footprints, operations, _least(full))
