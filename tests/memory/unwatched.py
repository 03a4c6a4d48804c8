"""A training step with nothing recording; the worker process imports this module too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

PEAKS = ("requested", "allocated", "reserved")


@dataclass(frozen=True)
class Unwatched:
    """Three steps with nothing recording; PyTorch's own statistics of them."""

    build: Callable[[torch.device], Any]
    key: str = "unwatched"

    def run(self, device: torch.device, report: Callable[[object], None]) -> tuple[int, ...]:
        torch.cuda.reset_peak_memory_stats(device)
        built = self.build(device)
        for _ in range(3):
            built[-1]()
        stats = torch.cuda.memory_stats(device)
        return tuple(stats[f"{name}_bytes.all.peak"] for name in PEAKS)
