"""Floating-point operations of local training, counted rather than estimated from a formula."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from profl.bench.cell import Recipe
from profl.bench.memory.workload import Unobserved, Workload
from profl.bench.method import Task
from profl.bench.models import ModelSpec
from profl.bench.technique import PLAIN, Technique
from profl.bench.training import TrainingWorkload

_counted: dict[tuple[object, ...], int] = {}
"""Operations of a step by all that decides them; a task may be another value in every round with the same key."""


def _deciding(task: Task, model: ModelSpec, recipe: Recipe, technique: Technique) -> tuple[object, ...]:
    return type(task), task.key, model, recipe.batch_size, technique


def take_over(
    counts: Mapping[str, int], tasks: Sequence[Task], model: ModelSpec, recipe: Recipe, technique: Technique
) -> None:
    """Take the operations of steps, by task key, from where they were counted: they are not counted again here.

    Where tasks of several types have one key, nobody knows which of them was counted.

    Parameters
    ----------
    counts
        As `operations_per_step` returns them, in whatever process.
    tasks
        Those that the counts are of; of others nothing is known.
    model, recipe, technique
        With which they were counted.
    """
    types_of = Counter(key for key, _ in {(task.key, type(task)) for task in tasks})
    for task in tasks:
        if task.key in counts and types_of[task.key] == 1:
            _counted[_deciding(task, model, recipe, technique)] = counts[task.key]


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
    known = _deciding(task, model, recipe, technique)
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
    with _counter() as counter:
        prepared.step(Unobserved())
    return int(counter.get_total_flops()) // workload.steps_per_segment


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(
    grad_output: Sequence[int], inputs: Sequence[int], weight: Sequence[int], *more: Any, out_shape: object = None
) -> int:
    """Each gradient takes what forward does. PyTorch's own formula counts that of a weight as if it had no groups."""
    *_, transposed, _output_padding, _groups, (input_wanted, weight_wanted, _) = more
    positions = prod((inputs if transposed else grad_output)[2:])
    return 2 * inputs[0] * positions * prod(weight) * (input_wanted + weight_wanted)


@dataclass(frozen=True)
class Counted:
    """A training step of anybody's, whose operations are counted where its memory is measured: a `Program`.

    Parameters
    ----------
    step
        What is built and run once, for this alone: nothing of it is recorded.
    """

    step: Workload

    @property
    def key(self) -> str:
        return self.step.key

    def run(self, device: torch.device, report: Callable[[object], None]) -> int | None:
        """Return the operations of one step, as `operations_per_step` counts them; None if some cannot be seen.

        What is compiled is run as it is written. Not seen are cuDNN's recurrent networks, other packages' kernels,
        what a CUDA graph replays, and what multiplies in a way that PyTorch's counter does not know, such as a matrix
        and a vector.
        """
        prepared = self.step.prepare(device)
        compiles = "torch._dynamo" in sys.modules
        eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager") if compiles else nullcontext()
        with eager, _Unseen() as unseen, _counter() as counter:
            prepared.step(Unobserved())
        return None if unseen.any else int(counter.get_total_flops())


class _Unseen(TorchDispatchMode):
    """Notes whether anything runs whose operations PyTorch's counter does not know, though they may be many."""

    def __init__(self) -> None:
        super().__init__()
        self.any = False

    def __enter__(self) -> _Unseen:
        self._patch = patch.object(torch.cuda.CUDAGraph, "replay", self._replaying(torch.cuda.CUDAGraph.replay))
        self._patch.start()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._patch.stop()

    def __torch_dispatch__(
        self, function: Any, types: object, arguments: tuple[Any, ...] = (), more: Mapping[str, Any] | None = None
    ) -> Any:
        known = function.namespace in _KNOWN and function._opname not in _UNCOUNTED
        self.any |= not known and function.overloadpacket not in flop_registry
        return function(*arguments, **(more or {}))

    def _replaying(self, replay: Callable[[Any], None]) -> Callable[[Any], None]:
        def replayed(graph: Any) -> None:
            self.any = True
            replay(graph)

        return replayed


_KNOWN = ("aten", "prim", "prims", "profiler", "c10d", "_c10d_functional", "fsdp")
"""Namespaces of operators that PyTorch's counter knows, or that move data or nothing."""

_UNCOUNTED = frozenset(
    (
        *("_cudnn_rnn", "_cudnn_rnn_backward", "mv", "addmv", "dot", "vdot", "addr", "_trilinear", "_int_mm"),
        *("_grouped_mm", "_scaled_grouped_mm", "_sparse_mm", "_sparse_addmm", "_fft_c2c", "_fft_r2c", "_fft_c2r"),
    )
)
"""Operators of PyTorch's own that multiply much, and that no version of its counter is sure to count."""
