"""The memory that the methods of the default run are said to need, guarded by this package's own pytest plugin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from profl.bench.cell import Recipe
from profl.bench.memory import Footprint
from profl.bench.method import FullModel
from profl.bench.models import ModelSpec
from profl.bench.training import TrainingWorkload
from profl.growing import GrowTask

GPU = "virtual:jetson-orin"
RESNET18 = ModelSpec("resnet18", 16, 10)
RECIPE = Recipe(batch_size=8)


@pytest.mark.peak_memory("26MiB", gpu=GPU)
@pytest.mark.peak_memory("30MiB", gpu=GPU, quantity="least_budget")
@pytest.mark.parametrize("block", [1, 4])
def test_profls_dearest_growing_steps(memory_footprint: Callable[..., Footprint], block: int):
    memory_footprint(TrainingWorkload("profl", RESNET18, GrowTask(RESNET18, block), RECIPE))


@pytest.mark.peak_memory("33MiB", gpu=GPU)
@pytest.mark.peak_memory("38MiB", gpu=GPU, quantity="least_budget")
def test_fedavg(memory_footprint: Callable[..., Footprint]):
    memory_footprint(TrainingWorkload("fedavg", RESNET18, FullModel(RESNET18), RECIPE))
