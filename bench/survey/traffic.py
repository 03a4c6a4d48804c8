"""Bytes that a device receives and sends in one round of a task, counted without training it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from profl.bench.cell import Recipe
from profl.bench.method import LocalContext, Task
from profl.bench.models import ModelSpec
from profl.bench.training import train_locally

_EXAMPLES = 2
"""Of a step that is taken to see what it adds to an update: BatchNorm cannot train on fewer."""


def downloaded_bytes(task: Task) -> int:
    """Return the bytes of the module that a device receives, as `profl.bench.federation` counts them."""
    with torch.device("meta"):
        return sum(value.nbytes for value in task.build().state_dict().values())


def uploaded_bytes(
    task: Task, model: ModelSpec, global_state: Mapping[str, Tensor], local: LocalContext, recipe: Recipe
) -> int:
    """Return the bytes of the update that a device makes of the task.

    It is the task's own update of a module that was not trained, as the size of what gradients change does not depend
    on its values. What a `forward_only` task sends may depend on how many steps it has taken: it takes one and two,
    and every further one of the round is counted as the second.

    Parameters
    ----------
    model
        The full model, which says what an example looks like.
    global_state
        The method's, before its first round.
    local
        The device.
    recipe
        Decides how many steps there are in a round.
    """
    if not task.forward_only:
        with torch.device("meta"):
            module = task.build()
        return task.update(module.to_empty(device="cpu"), global_state, local).uploaded_bytes
    steps = recipe.local_epochs * -(-local.examples // recipe.batch_size)
    first, second = (_after(count, task, model, global_state, local, recipe) for count in (1, 2))
    return first + (steps - 1) * (second - first)


def _after(
    steps: int,
    task: Task,
    model: ModelSpec,
    global_state: Mapping[str, Tensor],
    local: LocalContext,
    recipe: Recipe,
) -> int:
    """Return the bytes of the update after so many steps on a few examples."""
    module: nn.Module = task.build()
    task.load(module, global_state, local)
    takes = model.skeleton()
    inputs = torch.zeros(_EXAMPLES, *takes.input_shape, dtype=takes.input_dtype)
    targets = torch.zeros(_EXAMPLES, dtype=torch.int64)
    one_step_each = replace(recipe, batch_size=_EXAMPLES, local_epochs=steps)
    train_locally(task, module, inputs, targets, one_step_each, local.generator, augmented=False)
    return task.update(module, global_state, local).uploaded_bytes
