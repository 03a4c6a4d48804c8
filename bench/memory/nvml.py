"""What the driver says this process holds: PyTorch's reserved memory and the CUDA context together."""

from __future__ import annotations

import os


def process_used_bytes(uuid: str) -> int | None:
    """Return the bytes of the GPU named ``uuid`` that this process holds, or None where that cannot be known.

    Unknown are: no NVIDIA driver, a driver that does not tell (Jetson, MIG, WSL), and a container whose
    process numbers differ from the driver's.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu):
                if process.pid == os.getpid():
                    used: int | None = process.usedGpuMemory
                    return used
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        pass
    return None
