"""What the virtual GPU keeps of cuDNN's answers is told again as cuDNN told it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch

from profl.bench.memory.process.probe import Prober

CONVOLUTION_DESCRIPTOR = 1
"""``CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR``."""

BAD_PARAMETER = 2
"""In thousands, of what cuDNN answers with."""


@dataclass(frozen=True)
class Refusals:
    """What is said of a convolution that lacks everything, each time that it is finalized."""

    times: int
    key: str = "refusals"

    def run(self, device: torch.device, report: Callable[[object], None]) -> list[tuple[int, bytes]]:
        torch.zeros(1, device=device)
        driver, found = ctypes.CDLL("libcuda.so.1"), []
        for _ in range(self.times):
            descriptor, text = ctypes.c_void_p(), ctypes.create_string_buffer(256)
            driver.cudnnBackendCreateDescriptor(CONVOLUTION_DESCRIPTOR, ctypes.byref(descriptor))
            status = driver.cudnnBackendFinalize(descriptor)
            driver.cudnnGetLastErrorString(text, ctypes.c_size_t(256))
            driver.cudnnBackendDestroyDescriptor(descriptor)
            found.append((status, text.value))
        return found


def test_a_refusal_is_told_with_its_reason_as_often_as_it_is_asked_for(prober: Prober):
    first, *others = prober.run(Refusals(3), "virtual:h100", lambda _: None)
    status, reason = first
    assert status // 1000 == BAD_PARAMETER
    assert reason
    assert others == [first, first]
