"""Measured bytes of ResNet18 that must not change as long as PyTorch does not."""

from __future__ import annotations

import pytest
import torch

from profl.bench.memory.process.probe import Prober
from tests.memory.workloads import ResNet18

GOLDEN_TORCH = "2.14.1"
pytestmark = pytest.mark.skipif(
    torch.__version__.split("+")[0] != GOLDEN_TORCH,
    reason=f"the golden bytes are those of torch {GOLDEN_TORCH}, this is {torch.__version__}",
)

# Requested, allocated, reserved, least budget; then gradients, activations, workspace, temporaries at the
# peak.
GOLDEN = {
    ("virtual:sm_90", False): (
        (774_734_624, 776_330_752, 910_163_968, 838_860_800),
        (33_595_432, 562_054_660, 67_108_864, 20_971_524),
    ),
    ("virtual:h100", False): (
        (792_036_275, 794_812_416, 1_012_924_416, 851_443_712),
        (28_872_744, 570_447_364, 84_934_803, 16_777_220),
    ),
    ("virtual:h100", True): (
        (774_734_755, 777_379_840, 914_358_272, 847_249_408),
        (33_595_432, 562_054_660, 67_108_995, 20_971_524),
    ),
    ("virtual:a100", False): (
        (761_889_712, 765_844_992, 1_084_227_584, 811_597_824),
        (35_956_776, 545_275_396, 64_487_568, 25_165_828),
    ),
    ("virtual:t4", False): (
        (740_920_096, 742_514_176, 897_581_056, 801_112_064),
        (19_435_560, 570_447_364, 43_255_808, 16_777_220),
    ),
}

PARAMETERS = 11_173_962
RUNNING_STATISTICS = 2 * 4800
BATCH_COUNTERS = 20
"""Of the 20 batch normalisations, with 4,800 channels in all."""


@pytest.mark.parametrize(("gpu", "channels_last"), GOLDEN)
def test_resnet18(prober: Prober, gpu: str, channels_last: bool) -> None:
    footprint = prober.measure(ResNet18(channels_last=channels_last), gpu)

    peaks, at_peak = GOLDEN[gpu, channels_last]
    assert peaks == (
        footprint.peak_requested_bytes,
        footprint.peak_allocated_bytes,
        footprint.peak_reserved_bytes,
        footprint.least_budget_bytes,
    )
    assert footprint.categories_at_peak == {
        "parameters": 4 * PARAMETERS,
        "gradients": at_peak[0],
        "optimizer state": 4 * PARAMETERS,
        "buffers": 4 * RUNNING_STATISTICS + 8 * BATCH_COUNTERS,
        "inputs": 4 * 128 * 3 * 32 * 32 + 8 * 128,
        "activations": at_peak[1],
        "workspace": at_peak[2],
        "temporaries": at_peak[3],
    }


def test_cublas_workspaces_of_both_threads_are_workspace(prober: Prober) -> None:
    """Forward and backward run in two threads, and each has a workspace of 32 MiB on sm_90."""
    footprint = prober.measure(ResNet18(), "virtual:sm_90")
    assert footprint.categories_at_peak["workspace"] == 2 * (32 << 20)
