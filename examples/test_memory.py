"""A guard: the test fails when the training step needs more memory than its limit. Run it with pytest."""

import pytest
from own_model import build


@pytest.mark.peak_memory(limit="42MiB", gpu="virtual:jetson-orin")
def test_training_fits(memory_footprint):
    memory_footprint(build)
