"""What a sweep will take, told before anything is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from profl.bench.cell import Cell
from profl.bench.contained import refused, usual_torch
from profl.bench.data import Dataset, load_dataset
from profl.bench.data.held_out import hold_out
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.fleet import eligibility
from profl.bench.measuring import Measured, measure_tasks
from profl.bench.memory.gpu.profile import PHYSICAL
from profl.bench.memory.process.probe import Prober
from profl.bench.method import FullModel, RoundSummary, Task
from profl.bench.operations import operations_per_example, operations_per_step
from profl.bench.randomness import initialised
from profl.bench.training import LocalStep

TIMED_SECONDS = 1.0
"""How long steps are run to learn how fast this machine is."""


@dataclass(frozen=True)
class Forecast:
    """What one cell will take.

    Parameters
    ----------
    cell
        What is to be run.
    least_budgets
        Least memory in bytes, by task key.
    operations_per_example
        Floating-point operations of training on one example, by task key.
    eligible_devices
        How many devices could train each task, by task key.
    participation_share
        Mean over the rounds of the share of devices that an offered task fits.
    operations, uploaded_bytes, downloaded_bytes
        Of all local training of the run; bytes are NaN if a task's update cannot be told without training.
    testing_operations
        Roughly, of its tests: as of the full model, whose forward pass is a third of a training step.
    """

    cell: Cell
    least_budgets: Mapping[str, int]
    operations_per_example: Mapping[str, int]
    eligible_devices: Mapping[str, int]
    participation_share: float
    operations: int
    uploaded_bytes: float
    downloaded_bytes: float
    testing_operations: int


def forecasts(possible: Iterable[Experiment], prober: Prober) -> Iterator[Forecast]:
    """Measure every cell of a sweep and go through its rounds; nothing is trained and nothing is written.

    Raises
    ------
    InputError
        If a cell's data cannot be had or dealt, or its method fails.
    """
    load = cache(load_dataset)
    for experiment in possible:
        cell = experiment.cell
        whole = load(cell.dataset, cell.data_folder, cell.recipe.by_user)
        dataset = hold_out(whole, cell.recipe.held_out_share, cell.seed)
        measured = measure_tasks(experiment, prober)
        with refused(f"method '{cell.method}'", "fails where its rounds are gone through"):
            found = forecast(experiment, dataset, measured)
        yield found


def forecast(experiment: Experiment, dataset: Dataset, measured: Measured) -> Forecast:
    """Go through the rounds of a cell without training: the devices that are drawn, their tasks, and what these take.

    That training can end a step of a schedule early (ProFL's freezing rule) is not foreseen, as rounds are told to the
    method as ones in which nobody trained. Rounds that are left then go to later steps, which may take more.

    Parameters
    ----------
    dataset
        The cell's, with what it holds out taken out.
    """
    cell, fleet = experiment.cell, Federation(experiment, dataset, measured.least_budgets, measured.full_model_bytes)
    traffic: dict[tuple[str, int], tuple[float, float]] = {}
    operations, uploaded, downloaded, shares = 0, 0.0, 0.0, []
    for number in range(1, cell.recipe.rounds + 1):
        tasks, chosen = fleet.choices(number)
        eligible = np.flatnonzero(chosen >= 0)
        shares.append(len(eligible) / len(chosen))
        for device in fleet.draw(eligible, number):
            task = tasks[chosen[device]]
            if (task.key, device) not in traffic:
                traffic[task.key, device] = _traffic(fleet, task, device)
            up, down = traffic[task.key, device]
            uploaded, downloaded = uploaded + up, downloaded + down
            operations += fleet.operations(task, device)
        fleet.method.finish_round(RoundSummary(number, 0, math.nan))
    return Forecast(
        cell,
        measured.least_budgets,
        {
            task.key: operations_per_example(task, experiment.model, cell.recipe, experiment.technique)
            for task in experiment.tasks
        },
        {str(key): int(count) for key, count in eligibility(fleet.budgets, measured.least_budgets).sum().items()},
        sum(shares) / len(shares),
        operations,
        uploaded,
        downloaded,
        _testing_operations(experiment, fleet),
    )


def _testing_operations(experiment: Experiment, fleet: Federation) -> int:
    recipe = experiment.cell.recipe
    tests = math.ceil(recipe.rounds / recipe.evaluate_every)
    examples = len(fleet.sample) + 2 * len(fleet.dataset.test_targets)  # statistics, and before and after them
    forward = operations_per_example(FullModel(experiment.model), experiment.model, recipe) // 3
    return 0 if experiment.cell.memory_only else tests * examples * forward


def _traffic(fleet: Federation, task: Task, device: int) -> tuple[float, float]:
    """Return the bytes that a device sends and receives for a task, from tensors without values."""
    with torch.device("meta"):
        module = task.build()
    received = sum(value.nbytes for value in module.state_dict().values())
    try:
        return task.update(module, fleet.method.global_state, fleet.context(device, number=1)).uploaded_bytes, received
    except (NotImplementedError, RuntimeError):  # it reads values
        return math.nan, received


def operations_per_second(experiment: Experiment) -> float:
    """Time steps of the full model where the cell trains, with one thread: a rough measure of how fast it will go.

    Narrower or shallower tasks do less at a time and are slower by the operation.

    Raises
    ------
    torch.OutOfMemoryError
        If a step does not fit the GPU, where training runs on one.
    """
    recipe, task = experiment.cell.recipe, FullModel(experiment.model)
    device = torch.device("cuda", 0) if experiment.cell.gpu == PHYSICAL else torch.device("cpu")
    with initialised(experiment.cell.seed, "timed"):
        module = task.build().to(device)
        takes = experiment.model.skeleton()
        inputs = torch.zeros(recipe.batch_size, *takes.input_shape, dtype=takes.input_dtype, device=device)
    targets = torch.zeros(recipe.batch_size, dtype=torch.int64, device=device)
    step = LocalStep(task, module, recipe)
    steps, seconds = 0, 0.0
    with usual_torch():
        float(step(inputs, targets))  # the first one chooses kernels
        began = time.perf_counter()
        while seconds < TIMED_SECONDS:
            float(step(inputs, targets))
            steps, seconds = steps + 1, time.perf_counter() - began
    return steps * operations_per_step(task, experiment.model, recipe) / seconds
