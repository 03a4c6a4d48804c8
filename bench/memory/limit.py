"""A limit on the GPU memory that this process may hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def memory_limit(device: torch.device, budget_bytes: int) -> Iterator[None]:
    """Let this process hold at most ``budget_bytes`` of ``device``; more raises ``torch.OutOfMemoryError``.

    The limit acts on what PyTorch's allocator reserves: it leaves out the CUDA context and starts with the
    cache emptied. Other processes are not limited, nor is anything on a CPU. A budget above the GPU's memory
    limits nothing, and one within another is limited by that too.
    """
    if device.type != "cuda":
        yield
        return
    import torch

    total_bytes = torch.cuda.get_device_properties(device).total_memory
    # The allocator multiplies the share by the total, and drops the fraction or rounds it, by version: a
    # quarter of a byte too much comes to the exact budget either way.
    around = torch.cuda.get_per_process_memory_fraction(device)
    share = min(around, (budget_bytes + 0.25) / total_bytes)
    # What earlier work left in the process would count against this budget.
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(around, device)
