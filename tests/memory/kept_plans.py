"""Least budgets of processes that keep cuDNN's plans, beside ours, which make every plan anew.

``python -m tests.memory.kept_plans`` prints the table of docs/trust.md. PyTorch keeps the plan of every convolution,
also one that it took because memory was short then. So every trial has a process of its own, forked before PyTorch
asks for the GPU: what it keeps is what it met under its limit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profl.bench.training import TrainingWorkload

HEADING = "| GPU | method, task | plans made anew | plans kept | difference |\n|---|---|---|---|---|"
TASKS = (
    ("h100", "fedavg", "full model"),
    ("h100", "heterofl", "subnetwork 1/2 scaled"),
    ("jetson-orin", "fedavg", "full model"),
    ("jetson-orin", "profl", "shrink 4"),
    ("jetson-orin", "profl", "map 2"),
    ("jetson-orin", "profl", "grow 4"),
    ("jetson-orin", "depthfl", "depth 4"),
    ("jetson-orin", "depthfl", "depth 3"),
    ("jetson-orin", "depthfl", "depth 2"),
)
"""ResNet18 of width 64, batches of 64. One process can have one virtual GPU, so those of one stand together."""
_LIMITS = {"plans made anew": "-1", "plans kept": "10000"}  # PyTorch's own limit is 10000 plans
_FIRST_GUESS_BYTES = 1 << 40


def print_rows(gpu: str, tasks: Sequence[tuple[str, str]]) -> None:
    """Search for the least budgets of a GPU's tasks, and print their rows. Once in a process."""
    from profl.bench.memory.gpu.driver import load
    from profl.bench.memory.process.probe import _setup

    setup, variables = _setup(f"virtual:{gpu}")
    os.environ.update(variables)
    load(setup)  # type: ignore[arg-type]
    from profl.bench.cell import Cell, Recipe
    from profl.bench.experiment import Experiment
    from profl.bench.training import TrainingWorkload

    recipe = Recipe(batch_size=64, rounds=50)
    for method, key in tasks:
        cell = Cell(method, "resnet18", 64, "digits", "unlimited", 0, f"virtual:{gpu}", recipe=recipe)
        experiment = Experiment.of(cell)
        task = next(task for task in experiment.tasks if task.key == key)
        workload = TrainingWorkload(method, cell.spec(10), task, recipe)
        anew, kept = (_least_budget_bytes(workload, limit) for limit in _LIMITS.values())
        sizes = " | ".join(f"{size / 2**20:.0f} MiB" for size in (anew, kept))
        told = "equal" if kept == anew else f"{100 * (kept / anew - 1):+.1f} %"
        print(f"| {gpu} | {method}, {key} | {sizes} | {told} |", flush=True)


def _least_budget_bytes(workload: TrainingWorkload, kept_plans: str) -> int:
    from profl.bench.memory.recording.budget import least_budget_bytes

    def trial(budget_bytes: int) -> int:
        return _in_a_fork(workload, kept_plans, budget_bytes)

    peak_bytes = trial(_FIRST_GUESS_BYTES)
    least = least_budget_bytes(lambda budget_bytes: trial(budget_bytes) > 0, peak_bytes, _FIRST_GUESS_BYTES)
    assert least is not None
    return least


def _in_a_fork(workload: TrainingWorkload, kept_plans: str, budget_bytes: int) -> int:
    """Return the reserved peak of a trial in a process of its own, 0 if it ran out of memory."""
    import torch

    from profl.bench.memory.recording.measurement import fits

    ours, its = os.pipe()
    if not os.fork():
        status = 1
        try:
            os.environ["TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT"] = kept_plans
            torch.set_num_threads(1)
            torch.cuda.init()
            device = torch.device("cuda", 0)
            peak_bytes = torch.cuda.max_memory_reserved(device) if fits(workload, device, budget_bytes) else 0
            os.write(its, str(peak_bytes).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(its)
    with open(ours) as answer:
        text = answer.read()
    os.wait()
    return int(text)


def print_table() -> None:
    """Print every row; each GPU has a process of its own."""
    print(HEADING, flush=True)
    for gpu, rows in groupby(TASKS, key=lambda row: row[0]):
        if not (child := os.fork()):
            print_rows(gpu, [(method, key) for _, method, key in rows])
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    print_table()
