"""The round loop: draw participants, train the first task that fits each, aggregate, test, record."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from profl.bench.cell import Cell
from profl.bench.contained import contained
from profl.bench.data import Dataset, load_dataset
from profl.bench.data.held_out import hold_out
from profl.bench.data.partition import parse_scheme, partition
from profl.bench.environment import training_environment
from profl.bench.errors import InputError
from profl.bench.experiment import Experiment
from profl.bench.fleet import UNLIMITED, Holdings, first_fitting
from profl.bench.held import held_over_rounds
from profl.bench.memory.gpu.profile import PHYSICAL
from profl.bench.memory.gpu.unmodelled import unmodelled
from profl.bench.memory.limit import memory_limit
from profl.bench.memory.recording.measurement import clean
from profl.bench.memory.usage import PEAK_STATISTICS, Usage, memory_usage
from profl.bench.method import LocalContext, RoundSummary, Task, Update, filled
from profl.bench.models.normalisation import batchnorms
from profl.bench.operations import operations_per_example
from profl.bench.plugins import offered_by
from profl.bench.randomness import initialised, numpy_generator, torch_generator
from profl.bench.results import CellFolder
from profl.bench.results.score import mean_of_last_tests
from profl.bench.trained import TrainedParameters
from profl.bench.training import (
    SAMPLE_EXAMPLES,
    evaluate,
    gradient_norm,
    recalibrate_batchnorm,
    train_locally,
)
from profl.bench.validation import check_texts

RoundRow = dict[str, Any]


class Federation:
    """A fleet of devices training one method on one dataset; one call a round.

    Parameters
    ----------
    experiment
        What to run.
    dataset
        Its data.
    least_budgets
        Least memory in bytes of every task of the method, by task key.
    full_model_bytes
        Least memory of the full model: what tiers in percent refer to.
    """

    def __init__(
        self, experiment: Experiment, dataset: Dataset, least_budgets: Mapping[str, int], full_model_bytes: int
    ) -> None:
        cell, recipe = experiment.cell, experiment.cell.recipe
        self.cell, self.recipe, self.dataset = cell, recipe, dataset
        self.method = experiment.method()
        self.technique = experiment.technique
        self.least_budgets = dict(least_budgets)
        self.budgets = np.asarray(cell.budgets(full_model_bytes), np.int64)
        self.partition = partition(
            dataset.train_targets.numpy(),
            recipe.devices,
            parse_scheme(recipe.partition),
            cell.seed,
            users=None if dataset.users is None else dataset.users.numpy(),
        )
        self.holdings = Holdings(self.partition, dataset.train_targets.numpy(), dataset.classes)
        on_gpu = cell.memory_only or cell.gpu == PHYSICAL
        self.device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
        self.resident: dict[str, nn.Module] = {}
        self.trained = TrainedParameters()
        needs = {task.key: self.least_budgets[task.key] for task in self.method.all_tasks()}
        self.method.settle({key: int(np.count_nonzero(self.budgets >= need)) for key, need in needs.items()})
        self.sample = self._sample(min(needs.values()))

    def run_round(self, number: int) -> RoundRow:
        """Run round ``number`` (from 1); return its row, ``profl.bench.results.ROUND_COLUMNS`` but for the attempt."""
        began = time.perf_counter()
        (tasks, chosen), phase = self.choices(number), self.method.phase
        eligible = np.flatnonzero(chosen >= 0)
        out = self.holdings.lost(chosen >= 0)
        updates: list[Update] = []
        losses: list[float] = []
        usages: list[dict[str, Any]] = []
        trained: Counter[str] = Counter()
        downloaded_bytes = operations = out_of_memory = 0
        for device in self.draw(eligible, number):
            task = tasks[chosen[device]]
            result = self._train(task, device, number)
            if result is None:
                out_of_memory += 1
                continue
            update, loss, received, usage = result
            updates.append(update)
            losses.append(loss)
            if usage.held_bytes is not None:
                usages.append({"device": device, "task": task.key, **asdict(usage)})
            trained[task.key] += 1
            downloaded_bytes += received
            operations += self.operations(task, device)
        if updates:
            self.method.aggregate(updates)
        meaningful = losses and not self.cell.memory_only
        train_loss = float(np.mean(losses)) if meaningful else math.nan
        # Tested before the schedule moves on: the next step's network is not what this round trained.
        tested = self._test(number)
        diagnostics = dict(self.method.diagnostics())
        check_texts([phase, tested["tested"], list(diagnostics)], f"phases and diagnostics of '{self.cell.method}'")
        self.method.finish_round(RoundSummary(number, len(updates), train_loss))
        return {
            "round": number,
            "phase": phase,
            "train_loss": train_loss,
            **tested,
            "participants": len(updates),
            "eligible_devices": len(eligible),
            "devices_out_share": float(out.devices),
            "data_out_share": float(out.data),
            "classes_out_share": float(out.classes),
            "uploaded_bytes": sum(update.uploaded_bytes for update in updates),
            "downloaded_bytes": downloaded_bytes,
            "operations": operations,
            "out_of_memory_devices": math.nan if self.device.type == "cpu" else out_of_memory,
            **{peak: max((usage[peak] for usage in usages), default=math.nan) for peak in PEAK_STATISTICS},
            "held_bytes": usages[-1]["held_bytes"] if usages else math.nan,
            "tasks": dict(trained),
            "diagnostics": diagnostics,
            "usages": usages,
            "seconds": time.perf_counter() - began,
        }

    def choices(self, number: int) -> tuple[list[Task], NDArray[np.int64]]:
        """Begin round ``number``: return the offered tasks, and which of them each device's memory holds first.

        The latter as `profl.bench.fleet.first_fitting` says it.

        Raises
        ------
        InputError
            If the method offers a task that it has not listed.
        """
        self.method.finished_rounds = number - 1
        tasks = list(self.method.tasks())
        if unlisted := [task.key for task in tasks if task.key not in self.least_budgets]:
            name = self.cell.method
            raise InputError(f"method '{name}' offers the task '{unlisted[0]}', which its all_tasks does not list")
        return tasks, first_fitting(self.budgets, [self.least_budgets[task.key] for task in tasks])

    def draw(self, eligible: ArrayLike, number: int) -> list[int]:
        """Draw the round's participants uniformly, without replacement; devices without data cannot be drawn."""
        able = np.asarray(eligible, np.int64)
        able = able[self.holdings.sizes[able] > 0]
        count = min(self.recipe.participants, len(able))
        draw = numpy_generator(self.cell.seed, "participants", number)
        return sorted(draw.choice(able, count, replace=False).tolist()) if count else []

    def _train(self, task: Task, device: int, number: int) -> tuple[Update, float, int, Usage] | None:
        """Train one device's task under its memory limit; return its update, mean loss, downloaded bytes and memory.

        None: it ran out of memory. A least budget was tried with full and half batches, and a device's last may have
        any size.
        """
        indices = torch.from_numpy(self.partition[device])
        inputs, targets = self.dataset.train_inputs[indices], self.dataset.train_targets[indices]
        local = self.context(device, number)
        module = self._loaded(task, local)
        on_gpu = self.device.type != "cpu"  # else to move it there takes as long as to copy it
        loss = None
        with (
            memory_limit(self.device, int(self.budgets[device])),
            memory_usage(self.device) as usage,
            suppress(torch.OutOfMemoryError),
        ):
            if on_gpu:
                module.to(self.device)
            loss = train_locally(
                task, module, inputs, targets, self.recipe, local.generator, self.dataset.augment, self.technique
            )
            if on_gpu:
                module.to("cpu")
        unmodelled()  # forgotten for every device: the losses that it reads are no loop that waits for a number
        if loss is None:
            del module, self.resident[task.key]  # left in the middle of a step
            clean(self.device)
            return None
        received = sum(value.nbytes for value in module.state_dict(keep_vars=True).values())
        update = task.update(module, self.method.global_state, local)
        self.trained.observe(module, update)
        return update, loss, received, usage

    def context(self, device: int, number: int) -> LocalContext:
        """Return what a task may know of a device in round ``number``."""
        targets = self.dataset.train_targets[torch.from_numpy(self.partition[device])]
        return LocalContext(
            generator=torch_generator(self.cell.seed, "local", number, device),
            classes=torch.bincount(targets, minlength=self.dataset.classes) > 0,
            examples=len(targets),
        )

    def operations(self, task: Task, device: int) -> int:
        """Return the floating-point operations of a device's training in one round."""
        examples = len(self.partition[device]) * self.recipe.local_epochs
        return operations_per_example(task, self.method.model, self.recipe, self.technique) * examples

    def _loaded(self, task: Task, local: LocalContext) -> nn.Module:
        """Return the task's resident module with the global values in it, on the CPU."""
        if task.key not in self.resident:
            with initialised(self.cell.seed, "resident"):
                self.resident[task.key] = task.build()
        module = self.resident[task.key]
        task.load(module, self.method.global_state, local)
        return module

    def _test(self, number: int) -> dict[str, Any]:
        """Test what was learned so far by the rule that holds for every method (docs/fairness.md)."""
        row: dict[str, Any] = dict.fromkeys(
            ("test_loss", "test_accuracy", "raw_test_accuracy", "gradient_norm"), math.nan
        )
        row["tested"] = None
        due = number % self.recipe.evaluate_every == 0 or number == self.recipe.rounds
        if self.cell.memory_only or not due:
            return row
        network = self.trained.choose(self.method.tested_networks())
        model = filled(network.build, self.method.global_state).to(self.device)
        tests = self.dataset.test_inputs, self.dataset.test_targets
        raw_loss, raw_accuracy = evaluate(model, *tests)
        row |= {"tested": network.name, "test_loss": raw_loss, "test_accuracy": raw_accuracy}
        norms = batchnorms(model)
        if all(self.method.keeps_batchnorm_statistics and norm.track_running_stats for norm in norms):
            row["raw_test_accuracy"] = raw_accuracy
        if norms and len(self.sample):
            recalibrate_batchnorm(model, self.dataset.train_inputs[self.sample], self.recipe.batch_size)
            row["test_loss"], row["test_accuracy"] = evaluate(model, *tests)
        if self.recipe.gradient_norm:
            row["gradient_norm"] = self._gradient_norm()
        return row

    def _gradient_norm(self) -> float:
        """Return the norm of the gradient of what the most preferred task trains; NaN without an example."""
        if not len(self.sample):
            return math.nan
        inputs, targets = self.dataset.train_inputs[self.sample], self.dataset.train_targets[self.sample]
        everything = LocalContext(
            generator=torch_generator(self.cell.seed, "gradient norm"),
            classes=torch.ones(self.dataset.classes, dtype=torch.bool),
            examples=len(targets),
        )
        task = self.method.tasks()[0]
        module = self._loaded(task, everything).to(self.device)
        norm = gradient_norm(task, module, inputs, targets, self.recipe.batch_size)
        module.to("cpu")
        return norm

    def _sample(self, least_bytes: int) -> torch.Tensor:
        """Draw the examples on which BatchNorm is re-estimated, the same in every round; a folder's come by class.

        They are of devices that can train something, as no other data is in anybody's reach.
        """
        held = [part for part, budget in zip(self.partition, self.budgets, strict=True) if budget >= least_bytes]
        indices = torch.from_numpy(np.sort(np.concatenate(held))) if held else torch.empty(0, dtype=torch.int64)
        order = torch.randperm(len(indices), generator=torch_generator(self.cell.seed, "recalibration"))
        return indices[order[:SAMPLE_EXAMPLES]]


def run_cell(
    experiment: Experiment,
    folder: CellFolder,
    least_budgets: Mapping[str, int],
    full_model_bytes: int,
    on_round: Callable[[RoundRow], None],
) -> None:
    """Run what is missing of a cell, round by round, keeping every finished round on disk.

    Raises
    ------
    InputError
        If a value of the cell cannot be used, or its folder is damaged.
    torch.OutOfMemoryError
        If a network cannot be tested on the GPU. Training that runs out of memory is counted in the round's row.
    """
    cell = experiment.cell
    whole = load_dataset(cell.dataset, cell.data_folder, cell.recipe.by_user)
    dataset = hold_out(whole, cell.recipe.held_out_share, cell.seed)
    who = f"method '{cell.method}'"
    checkpoint = folder.resume()
    with contained(who):
        federation = Federation(experiment, dataset, least_budgets, full_model_bytes)
        if checkpoint:
            if "trained" not in checkpoint:
                raise InputError(f"{folder.path} was begun by a version that tested by other rules: {folder.remedy}")
            federation.method.load_state_dict(checkpoint["method"])
            federation.trained.load_state_dict(checkpoint["trained"])
    finished = checkpoint["round"] if checkpoint else 0
    folder.enter(training_environment() | _packages(cell), finished)
    attempt = max((row["attempt"] or 1 for row in folder.rounds()), default=0) + 1
    for number in range(finished + 1, cell.recipe.rounds + 1):
        with contained(who):
            row = {**federation.run_round(number), "attempt": attempt}
            state = {
                "round": number,
                "method": federation.method.state_dict(),
                "trained": federation.trained.state_dict(),
            }
        folder.append_round(row, state)
        on_round(row)
    folder.finish(_summary(folder.rounds(), federation, full_model_bytes))


def _packages(cell: Cell) -> dict[str, str]:
    """Return which packages the cell's method and model come from, as far as that is known."""
    found = {
        "method_package": offered_by("profl.methods", cell.method),
        "model_package": offered_by("profl.models", cell.model.partition(":")[0]),
    }
    return {name: package for name, package in found.items() if package}


def _summary(rows: list[RoundRow], federation: Federation, full_model_bytes: int) -> dict[str, Any]:
    tested = [row for row in rows if row["test_accuracy"] is not None]
    best = max(tested, key=lambda row: row["test_accuracy"], default=None)
    peaks = [row["peak_reserved_bytes"] for row in rows if row["peak_reserved_bytes"] is not None]
    ran_out = [row["out_of_memory_devices"] for row in rows if row["out_of_memory_devices"] is not None]
    trained = {task for row in rows for task in row["tasks"]}
    return {
        "last_five_accuracy": mean_of_last_tests([row["test_accuracy"] for row in tested]),
        "final_accuracy": tested[-1]["test_accuracy"] if tested else math.nan,
        "raw_final_accuracy": tested[-1]["raw_test_accuracy"] if tested else math.nan,
        "best_accuracy": best["test_accuracy"] if best else math.nan,
        "best_round": best["round"] if best else math.nan,
        "participation_share": float(np.mean([1 - row["devices_out_share"] for row in rows])),
        "data_out_share": float(np.mean([row["data_out_share"] for row in rows])),
        "classes_out_share": float(np.mean([row["classes_out_share"] for row in rows])),
        "uploaded_bytes": sum(row["uploaded_bytes"] for row in rows),
        "downloaded_bytes": sum(row["downloaded_bytes"] for row in rows),
        "operations": sum(math.nan if row["operations"] is None else row["operations"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "out_of_memory_trainings": sum(ran_out) if ran_out else math.nan,
        "peak_reserved_bytes": max(peaks, default=math.nan),
        **held_over_rounds(rows),
        "full_model_least_budget_bytes": full_model_bytes,
        "dearest_trained_budget_bytes": max((federation.least_budgets[task] for task in trained), default=math.nan),
        "mean_device_budget_bytes": (
            math.nan if federation.cell.tier == UNLIMITED else float(np.mean(federation.budgets))
        ),
    }
