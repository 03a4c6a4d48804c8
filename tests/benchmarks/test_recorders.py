"""What recording costs beside the training that it stands for; figures land in pytest-benchmark's extra_info."""

from __future__ import annotations

import statistics
from itertools import count

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from profl.bench.memory.process.probe import Prober
from profl.bench.survey.classifier import Classifier
from profl.bench.survey.recorders import cpu_step_seconds
from tests.benchmarks.timing import seconds


@pytest.mark.benchmark(group="footprint")
def test_a_footprint_of_resnet18_takes_a_fraction_of_a_cpu_step(benchmark: BenchmarkFixture, prober: Prober):
    """Three steps are recorded in that time. The ratio grows with the batch: recording takes as long for any."""
    first_batch = count(32)

    def footprint() -> None:
        """Measure; a batch of its own each time, as equal workloads are measured only once."""
        prober.measure(Classifier("resnet18", batch_size=next(first_batch)), "virtual:sm_90", least_budget=False)

    footprint()  # the process starts, and imports what it needs
    ratio = cpu_step_seconds(Classifier("resnet18", batch_size=32)) / statistics.median(
        seconds(footprint) for _ in range(3)
    )
    benchmark.extra_info["ratio_of_a_cpu_step"] = ratio
    benchmark.pedantic(footprint, rounds=3)
    assert torch.get_num_threads() == 1
    assert ratio > 4
