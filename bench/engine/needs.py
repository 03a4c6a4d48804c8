"""What a cell's process needs: memory of its machine, and a share of a physical GPU."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

from profl.bench.data import load_dataset
from profl.bench.engine.job import Job
from profl.bench.memory.gpu.profile import PHYSICAL
from profl.bench.results import CellFolder

PROCESS_BYTES = 2**30
"""Python with PyTorch and its libraries: 0.65 GiB resident when imported, and some room."""

CONTEXT_BYTES = 2**30
"""A CUDA context with its libraries, where the driver did not tell, and what tests in batches of 256 take beyond it."""


def memory_bytes(job: Job) -> int:
    """Return the machine's memory that a cell's process asks for.

    The sum of `PROCESS_BYTES` (twice where training is on a virtual GPU, which has a process of its own); the dataset
    twice, as it is while it is loaded; the full model once for every participant's update, for every task's resident
    module, and for the global state, its checkpoint and the network that is tested; and the largest least budget, which
    stands for a training step. With ``measured_as`` that is the budget at the measured scale.
    """
    cell = job.cell
    processes = 2 if cell.memory_only else 1
    copies = cell.recipe.participants + len(job.experiment.tasks) + 3
    state_bytes = sum(value.nbytes for value in job.experiment.model.skeleton().state_dict().values())
    step_bytes = max(job.full_model_bytes, *job.least_budgets.values())
    return (
        processes * PROCESS_BYTES
        + 2 * _dataset_bytes(cell.dataset, cell.data_folder)
        + copies * state_bytes
        + step_bytes
    )


@cache
def _dataset_bytes(name: str, folder: Path | None) -> int:
    dataset = load_dataset(name, folder)
    inputs, targets = (dataset.train_inputs, dataset.test_inputs), (dataset.train_targets, dataset.test_targets)
    return sum(values.nbytes for values in (*inputs, *targets))


def gpu_share(job: Job) -> float:
    """Return the share of a GPU's memory that a cell's process asks for, rounded up to a percent; 0 if it needs none.

    The most that a measured task made the process hold: what the driver told, or else what PyTorch reserved and
    `CONTEXT_BYTES`; not less than the full model's least budget, as that model is tested, and `CONTEXT_BYTES`.
    """
    if job.cell.memory_only or job.cell.gpu != PHYSICAL:
        return 0.0
    entries = CellFolder(job.path).footprints()
    held = [entry["nvml_used_bytes"] or entry["peak_reserved_bytes"] + CONTEXT_BYTES for entry in entries]
    needed = max(job.full_model_bytes + CONTEXT_BYTES, *held)
    return min(1.0, math.ceil(100 * needed / entries[0]["environment"]["total_bytes"]) / 100)
