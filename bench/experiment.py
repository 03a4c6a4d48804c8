"""A cell with its names looked up: its model, and every task that its method may offer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from profl.bench.cell import Cell
from profl.bench.data import classes_of
from profl.bench.errors import InputError
from profl.bench.method import Method, Task
from profl.bench.models import ModelSpec
from profl.bench.registry import create_method
from profl.bench.technique import Technique


@dataclass(frozen=True)
class Experiment:
    """A cell that is known to be possible: what is measured of it, and what is run. Small, and it travels to workers.

    Parameters
    ----------
    cell
        What is run.
    model
        Its full model.
    tasks
        Every task that its method may offer.
    measured_tasks
        The same tasks, in the same order, at the scale at which memory is measured.
    """

    cell: Cell
    model: ModelSpec
    tasks: tuple[Task, ...]
    measured_tasks: tuple[Task, ...]

    @classmethod
    def of(cls, cell: Cell) -> Experiment:
        """Look up what a cell names; its method is built, asked for its tasks, and let go.

        Raises
        ------
        InputError
            If a name is unknown, the model cannot be built, the dataset's classes cannot be counted, the method refuses
            a value, the technique has no meaning for a task, or a task has no counterpart at the scale at which memory
            is measured.
        """
        model = cell.spec(classes_of(cell.dataset, cell.data_folder))
        _try_to_build(model)
        tasks = tuple(_method(cell, model).all_tasks())
        technique = Technique.parse(cell.technique)
        for task in tasks:
            technique.check(task, cell.recipe.momentum, f"method '{cell.method}'")
        return cls(cell, model, tasks, tasks if cell.measured_as is None else _counterparts(cell, model.classes, tasks))

    @property
    def technique(self) -> Technique:
        """How the cell's local steps save memory."""
        return Technique.parse(self.cell.technique)

    @property
    def measured_model(self) -> ModelSpec:
        """The full model at the scale at which memory is measured."""
        return self.cell.as_measured.spec(self.model.classes)

    def method(self) -> Method:
        """Return the cell's method as it is before the first round; whoever trains it needs one of their own."""
        return _method(self.cell, self.model)


@cache
def _try_to_build(model: ModelSpec) -> None:
    """Refuse a model that cannot be built: most tasks are built in a worker, and that is too late."""
    model.skeleton()


def _method(cell: Cell, model: ModelSpec) -> Method:
    return create_method(cell.method, model, cell.recipe.rounds, cell.seed, cell.options)


def _counterparts(cell: Cell, classes: int, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """Return the tasks of the same keys that the same method offers at the scale at which memory is measured."""
    measured = cell.as_measured
    _try_to_build(measured.spec(classes))
    there = {task.key: task for task in _method(measured, measured.spec(classes)).all_tasks()}
    if lacking := [task.key for task in tasks if task.key not in there]:
        raise InputError(
            f"task '{lacking[0]}' of method '{cell.method}' on {cell.model} cannot be measured as "
            f"{cell.measured_scale}, where its tasks are {', '.join(there)}: choose another model in measured_as"
        )
    return tuple(there[task.key] for task in tasks)
