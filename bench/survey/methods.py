"""Training memory of every task of every method on several models and GPUs: a row for each, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import torch

from profl.bench.cell import Cell, Recipe
from profl.bench.data import classes_of
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.measuring import measure_step
from profl.bench.memory.gpu.profile import resolve
from profl.bench.memory.process.probe import Prober
from profl.bench.method import FullModel, LocalContext, Method, Task
from profl.bench.models import ModelSpec
from profl.bench.randomness import torch_generator
from profl.bench.registry import create_method, method_class
from profl.bench.survey.measuring import columns_of
from profl.bench.survey.table import Identity, Row, Table, environment
from profl.bench.survey.traffic import downloaded_bytes, uploaded_bytes
from profl.bench.technique import NONE, Technique
from profl.bench.training import TrainingWorkload

REDUCED = {
    "peak_requested_reduction": "peak_requested_bytes",
    "peak_reserved_reduction": "peak_reserved_bytes",
    "least_budget_reduction": "least_budget_bytes",
}
"""Columns that hold by which share less is needed than by plain training of the full model, and of what."""

TABLE = Table(
    "methods",
    {
        **dict.fromkeys(("method", "task", "model"), "string"),
        **dict.fromkeys(("width", "batch_size"), "Int64"),
        **dict.fromkeys(("gpu", "technique"), "string"),
    },
    {
        "operations_per_step": "Int64",
        "operations_share": "float64",
        "uploaded_bytes": "Int64",
        "downloaded_bytes": "Int64",
        **dict.fromkeys(REDUCED, "float64"),
        "eligible_devices": "Int64",
    },
)
"""The columns of the table of methods.

``operations_share`` and the reductions refer to plain training of the full model in batches of the same size on the
same GPU. Bytes up and down are those of one device in one round of the published recipe, which holds examples of every
class. ``eligible_devices`` is how many of the published fleet's 100 hold the least budget.
"""

PUBLISHED_WIDTHS = {"resnet18": 64, "vgg11_bn": 64, "resnet34": 64, "vgg16_bn": 64, "vit": 192, "mobilenet_v2": 32}
"""The models of the study and the width of each as its source has it (docs/models.md)."""

BATCH_SIZES = (64, 128)
GPUS = ("virtual:h100", "virtual:jetson-orin")
TECHNIQUES = (
    NONE,
    "checkpoint",
    "micro-batch:4",
    "checkpoint+micro-batch:4",
    "autocast:bfloat16",
    "step-in-backward",
)

SEARCHED_BATCH_SIZE = 64
"""At which batch size least budgets are searched for: that of the published thresholds."""

DATASET, FLEET, SEED = "cifar10", "100..900MB", 42
"""As in ProFL's published code: ten classes, the devices' memory, and the seed of its draw."""

RECIPE = Recipe(rounds=1000, local_epochs=5, learning_rate=0.01)
"""As in ProFL's published code, but for the batch size."""

EXAMPLES = 500
"""On every device of the published recipe."""


@dataclass(frozen=True)
class Entry:
    """What one row of the table measures, and where.

    Parameters
    ----------
    cell
        Says everything but the task.
    model
        The cell's full model.
    task
        Of the cell's method.
    searched
        Whether the least budget is searched for, which takes most of the time.
    """

    cell: Cell
    model: ModelSpec
    task: Task
    searched: bool = False

    @property
    def gpu(self) -> str:
        """As `profl.bench.memory.gpu.profile.resolve` names it."""
        return self.cell.gpu

    @property
    def identity(self) -> Identity:
        """What its row holds in the columns of `Table.identity`, measured in this environment."""
        cell = self.cell
        scale = (cell.model, cell.width, cell.recipe.batch_size)
        return cell.method, self.task.key, *scale, cell.gpu, cell.technique, *environment()

    def is_met_by(self, row: Row) -> bool:
        """Return whether the least budget is known, if it is asked for."""
        return not self.searched or row["least_budget_bytes"] is not None

    def measure(self, prober: Prober) -> Row:
        """Return footprint, operations, traffic and what they mean; raises as `Prober.measure` does."""
        cell, recipe, technique = self.cell, self.cell.recipe, Technique.parse(self.cell.technique)
        own = TrainingWorkload(cell.method, self.model, self.task, recipe, technique)
        whole = TrainingWorkload("full", self.model, FullModel(self.model), recipe)
        (footprint, operations), (full_footprint, full_operations) = (
            measure_step(step, cell.gpu, prober, least_budget=self.searched) for step in (own, whole)
        )
        row, all_of_it = columns_of(footprint), columns_of(full_footprint)
        row["operations_per_step"] = operations
        row["operations_share"] = round(operations / full_operations, 6)
        row |= _traffic(cell.method, self.model, self.task.key, recipe)
        row |= {name: round(1 - row[of] / all_of_it[of], 6) for name, of in REDUCED.items() if row[of] is not None}
        if self.searched:
            row["eligible_devices"] = sum(row["least_budget_bytes"] <= budget for budget in cell.budgets(0))
        return row


@lru_cache(maxsize=2)
def _method(name: str, model: ModelSpec) -> Method:
    return create_method(name, model, RECIPE.rounds, SEED)


@cache
def _traffic(method: str, model: ModelSpec, key: str, recipe: Recipe) -> Row:
    """Return the bytes that a device with examples of every class sends and receives in a round."""
    made = _method(method, model)
    (task,) = (task for task in made.all_tasks() if task.key == key)
    everything = torch.ones(model.classes, dtype=torch.bool)
    local = LocalContext(torch_generator(SEED, "local", 1, 0), everything, EXAMPLES)
    sent = uploaded_bytes(task, model, made.global_state, local, recipe)
    return {"uploaded_bytes": sent, "downloaded_bytes": downloaded_bytes(task)}


def entries(
    methods: Sequence[str],
    models: Sequence[str] = tuple(PUBLISHED_WIDTHS),
    width: int | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    gpus: Sequence[str] = GPUS,
    techniques: Sequence[str] = (),
) -> tuple[list[Entry], list[str]]:
    """Return what is to be measured, and why some of what was asked for is not possible.

    Plain training comes first, techniques after it, and then once more what least budgets are searched for, which is
    everything at one batch size: so peaks are there in minutes.

    Parameters
    ----------
    width
        Of every model. None: as published.
    techniques
        Of everything else that was chosen. None of them: those of the study, which are for what ignores memory
        everywhere, for every method where `_in_study` says so.

    Raises
    ------
    InputError
        If a name is unknown, a model has no published width and none is given, or nothing is possible.
    GpuUnavailable
        If a GPU is unknown.
    """
    for gpu in gpus:
        resolve(gpu)
    ways = list(dict.fromkeys(Technique.parse(text) for text in techniques or TECHNIQUES))
    found: list[Entry] = []
    refused: list[str] = []
    for name in dict.fromkeys(models):
        if width is None and name not in PUBLISHED_WIDTHS:
            raise InputError(f"model '{name}' has no published width here: give --width")
        model = ModelSpec(name, width or PUBLISHED_WIDTHS[name], classes_of(DATASET))
        model.skeleton()  # a wrong name or width is an error; that a method cannot train a model is none
        for method in dict.fromkeys(methods):
            method_class(method)
            cell = Cell(
                method=method,
                model=name,
                width=model.width,
                dataset=DATASET,
                tier=FLEET,
                seed=SEED,
                gpu=gpus[0],
                recipe=RECIPE,
            )
            try:
                tasks = Experiment.of(cell).tasks
            except InputError as error:
                refused.append(str(error))
                continue
            for way in ways:
                where = [
                    (size, gpu)
                    for size in dict.fromkeys(batch_sizes)
                    for gpu in dict.fromkeys(gpus)
                    if techniques or _in_study(method, name, size, gpu, str(way))
                ]
                try:
                    for task in tasks if where else ():
                        way.check(task, RECIPE.momentum, f"method '{method}'")
                except InputError as error:
                    refused.append(str(error))
                    continue
                for size, gpu in where:
                    there = replace(cell, gpu=gpu, recipe=replace(RECIPE, batch_size=size), technique=str(way))
                    found += [Entry(there, model, task) for task in tasks]
    if not found:
        raise InputError(refused[0] if refused else "there is nothing to measure: choose at least one of everything")
    # What takes longest comes last: a forward-only step may draw as many numbers as the model has, over and over.
    found.sort(key=lambda entry: ([*map(str, ways)].index(entry.cell.technique), entry.task.forward_only))
    found += [replace(entry, searched=True) for entry in found if entry.cell.recipe.batch_size == SEARCHED_BATCH_SIZE]
    return found, list(dict.fromkeys(refused))


def _in_study(method: str, model: str, batch_size: int, gpu: str, technique: str) -> bool:
    """Return whether the study has a technique: of methods other than plain training on two models, on one board."""
    if technique == NONE or method_class(method).ignores_memory:
        return True
    return model in ("resnet18", "vgg11_bn") and batch_size == SEARCHED_BATCH_SIZE and gpu == "virtual:jetson-orin"
