"""A cell with its names looked up: its model, and every task that its method may offer."""

from __future__ import annotations

from dataclasses import dataclass

from profl.bench.cell import Cell
from profl.bench.data import classes_of
from profl.bench.method import Method, Task
from profl.bench.models import ModelSpec
from profl.bench.models.registry import model_builder
from profl.bench.registry import create_method


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
    """

    cell: Cell
    model: ModelSpec
    tasks: tuple[Task, ...]

    @classmethod
    def of(cls, cell: Cell) -> Experiment:
        """Look up what a cell names; its method is built, asked for its tasks, and let go.

        Raises
        ------
        InputError
            If a name is unknown, the dataset's classes cannot be counted, or the method refuses a value.
        """
        model_builder(cell.model)  # most tasks are built in a worker: too late for a wrong name
        model = cell.spec(classes_of(cell.dataset, cell.data_folder))
        return cls(cell, model, tuple(_method(cell, model).all_tasks()))

    def method(self) -> Method:
        """Return the cell's method as it is before the first round; whoever trains it needs one of their own."""
        return _method(self.cell, self.model)


def _method(cell: Cell, model: ModelSpec) -> Method:
    return create_method(cell.method, model, cell.recipe.rounds, cell.seed, cell.options)
