"""Put the virtual GPU's libraries in place, before anything imports torch."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from profl.bench.memory.gpu.build import Libraries
from profl.bench.memory.gpu.profile import VirtualGpu
from profl.bench.memory.gpu.unmodelled import watch


@dataclass(frozen=True)
class Setup:
    """What a process puts in place before it imports torch: the virtual GPU."""

    gpu: VirtualGpu
    libraries: Libraries
    cudnn: Path


class _Configuration(ctypes.Structure):
    """``struct virtual_gpu`` of driver/virtual_gpu.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("total_bytes", ctypes.c_uint64),
        ("capability_major", ctypes.c_int32),
        ("capability_minor", ctypes.c_int32),
        ("multiprocessors", ctypes.c_int32),
        ("threads_per_multiprocessor", ctypes.c_int32),
        ("blocks_per_multiprocessor", ctypes.c_int32),
        ("shared_bytes_per_block", ctypes.c_int32),
        ("reserved_shared_bytes_per_block", ctypes.c_int32),
        ("l2_cache_bytes", ctypes.c_int32),
        ("cudnn_library", ctypes.c_char_p),
        ("cudnn_device", ctypes.c_char_p),
        ("cudnn_workspaces", ctypes.c_int32),
        ("kernel_architecture", ctypes.c_int32),
    )


_loaded: list[object] = []
"""The libraries and the strings they point to: alive as long as the process."""


def load(setup: Setup) -> None:
    """Make this process see the virtual GPU: PyTorch, imported later, finds these functions first."""
    if "torch" in sys.modules:
        raise RuntimeError("torch is already imported: the virtual GPU must be loaded first")
    gpu = setup.gpu
    configuration = _Configuration(
        gpu.name.encode(),
        gpu.total_bytes,
        *gpu.capability,
        gpu.multiprocessors,
        gpu.threads_per_multiprocessor,
        gpu.blocks_per_multiprocessor,
        gpu.shared_bytes_per_block,
        gpu.reserved_shared_bytes_per_block,
        gpu.l2_cache_bytes,
        str(setup.cudnn).encode(),
        gpu.cudnn_device.encode(),
        gpu.cudnn_workspaces,
        gpu.kernel_architecture,
    )
    driver = ctypes.CDLL(str(setup.libraries.driver), mode=ctypes.RTLD_GLOBAL)
    driver.virtual_gpu_configure(ctypes.byref(configuration))
    management = ctypes.CDLL(str(setup.libraries.management), mode=ctypes.RTLD_GLOBAL)
    watch(driver)
    # Triton, which runs some of PyTorch's operators, would look for a driver among the system's libraries.
    os.environ["TRITON_LIBCUDA_PATH"] = str(setup.libraries.driver.parent)
    _loaded.extend((driver, management, configuration))
