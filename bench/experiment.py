"""A cell with its names looked up: its model, and every task that its method may offer."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache

from profl.bench.cell import Cell
from profl.bench.contained import refused
from profl.bench.data import classes_of
from profl.bench.environment import memory_bytes
from profl.bench.errors import InputError
from profl.bench.fleet import format_bytes
from profl.bench.method import Method, Task
from profl.bench.models import ModelSpec
from profl.bench.registry import create_method
from profl.bench.technique import Technique
from profl.bench.validation import check_texts


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
    def of(cls, cell: Cell, offers: Offers | None = None) -> Experiment:
        """Look up what a cell names; its method is built, asked for its tasks, and let go.

        Parameters
        ----------
        offers
            What was looked up for other cells of the same sweep.

        Raises
        ------
        InputError
            If a name is unknown, the model cannot be built or is too large for this machine, the dataset's classes
            cannot be counted, the method refuses a value, the technique has no meaning for a task, or a task has no
            counterpart at the scale at which memory is measured.
        """
        offers = offers or Offers()
        model = cell.spec(classes_of(cell.dataset, cell.data_folder))
        tasks = offers.of(cell, model)
        return cls(cell, model, tasks, tasks if cell.measured_as is None else _counterparts(cell, model, tasks, offers))

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


class Offers:
    """The tasks of methods as they were looked up, once for all cells that differ in nothing tasks could depend on.

    A method is asked for two seeds; if its tasks are the same for both, they are for all.
    """

    def __init__(self) -> None:
        self._by_seed: dict[Hashable, dict[int, tuple[Task, ...]]] = {}

    def of(self, cell: Cell, model: ModelSpec) -> tuple[Task, ...]:
        """Return every task that the method of a cell may offer on a model; raises as `Experiment.of` does."""
        options = json.dumps(cell.options, sort_keys=True, default=str)
        rounds, momentum = cell.recipe.rounds, cell.recipe.momentum
        known = self._by_seed.setdefault((cell.method, model, rounds, options, cell.technique, momentum), {})
        if cell.seed not in known:
            if len(known) > 1 and _equal(*list(known.values())[:2]):
                return next(iter(known.values()))
            known[cell.seed] = _checked_tasks(cell, model)
        return known[cell.seed]


def _equal(one: tuple[Task, ...], other: tuple[Task, ...]) -> bool:
    try:
        return one == other
    except Exception:  # a task may hold what does not compare
        return False


def _checked_tasks(cell: Cell, model: ModelSpec) -> tuple[Task, ...]:
    who = f"method '{cell.method}' on model '{model.name}'"
    with refused(who, "fails before any work"):
        _try_to_build(model)
        tasks = tuple(_method(cell, model).all_tasks())
    check_texts([task.key for task in tasks], f"tasks of method '{cell.method}'")
    technique = Technique.parse(cell.technique)
    for task in tasks:
        technique.check(task, cell.recipe.momentum, f"method '{cell.method}'")
    return tasks


_COPIES = 3
"""Networks that training holds at least, each in memory of this machine: the global one, a device's, its gradients."""


@cache
def _try_to_build(model: ModelSpec) -> None:
    """Refuse a model that cannot be built: most tasks are built in a worker, and that is too late."""
    needed = _COPIES * sum(value.nbytes for value in model.skeleton().state_dict().values())
    if needed > (memory := memory_bytes()):
        raise InputError(
            f"model '{model.name}' of width {model.width} takes at least {format_bytes(needed)} to train, and this "
            f"machine has {format_bytes(memory)}: choose a smaller width"
        )


def _method(cell: Cell, model: ModelSpec) -> Method:
    return create_method(cell.method, model, cell.recipe.rounds, cell.seed, cell.options)


def _counterparts(cell: Cell, model: ModelSpec, tasks: tuple[Task, ...], offers: Offers) -> tuple[Task, ...]:
    """Return the tasks of the same keys that the same method offers at the scale at which memory is measured."""
    measured = cell.as_measured
    there = {task.key: task for task in offers.of(measured, measured.spec(model.classes))}
    if lacking := [task.key for task in tasks if task.key not in there]:
        raise InputError(
            f"task '{lacking[0]}' of method '{cell.method}' on {cell.model} cannot be measured as "
            f"{cell.measured_scale}, where its tasks are {', '.join(there)}: choose another model in measured_as"
        )
    return tuple(there[task.key] for task in tasks)
