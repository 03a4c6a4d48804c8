"""Floating-point operations of local training, counted rather than estimated from a formula."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from profl.bench.cell import Recipe
from profl.bench.memory.workload import Unobserved
from profl.bench.method import Task
from profl.bench.models import ModelSpec
from profl.bench.technique import PLAIN, Technique
from profl.bench.training import TrainingWorkload

_counted: dict[tuple[object, ...], int] = {}
"""Operations of a step by all that decides them; a task may be another value in every round with the same key."""


def operations_per_step(task: Task, model: ModelSpec, recipe: Recipe, technique: Technique = PLAIN) -> int:
    """Return the floating-point operations of one local step on a full batch: forward, backward and what they need.

    Of a task of several segments it is the sum of a step of each.

    PyTorch's own counter watches the very step that trains, run on 'meta' tensors, so that nothing is computed; a step
    that cannot run there (it reads a value, say) runs on the CPU. Counted are convolutions, matrix products and
    attention, a multiplication and an addition as two operations; left out are normalisation, activations, the
    optimizer and whatever else the counter does not know.

    Parameters
    ----------
    task
        What trains. Frozen parts count in forward, and in backward only if gradients pass through them.
    model
        The full model, which says what an example looks like.
    recipe
        Its batch size is that of the step.
    technique
        How memory is saved: what it computes again counts again.
    """
    known = (type(task), task.key, model, recipe.batch_size, technique)
    if known not in _counted:
        workload = TrainingWorkload("operations", model, task, recipe, technique)
        try:
            _counted[known] = _count(workload, torch.device("meta"))
        except (NotImplementedError, RuntimeError):
            _counted[known] = _count(workload, torch.device("cpu"))
    return _counted[known]


def operations_per_example(task: Task, model: ModelSpec, recipe: Recipe, technique: Technique = PLAIN) -> int:
    """Return the floating-point operations that a local step takes for one example, rounded: see the above."""
    return round(operations_per_step(task, model, recipe, technique) / recipe.batch_size)


def _count(workload: TrainingWorkload, device: torch.device) -> int:
    prepared = workload.prepare(device)
    with FlopCounterMode(display=False) as counter:
        prepared.step(Unobserved())
    return int(counter.get_total_flops()) // workload.steps_per_segment
