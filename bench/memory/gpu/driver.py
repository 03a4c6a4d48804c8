"""Put the virtual GPU's libraries in place, before anything imports torch, and hear what they cannot play."""

from __future__ import annotations

import atexit
import ctypes
import linecache
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from profl.bench.memory.gpu.build import Libraries
from profl.bench.memory.gpu.profile import VirtualGpu


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
    watcher = _WATCHER(_write_down)
    driver.virtual_gpu_watch(watcher)
    atexit.register(driver.virtual_gpu_watch, None)  # PyTorch takes itself down when Python can listen no more
    # Triton, which runs some of PyTorch's operators, would look for a driver among the system's libraries.
    os.environ["TRITON_LIBCUDA_PATH"] = str(setup.libraries.driver.parent)
    _loaded.extend((driver, management, configuration, watcher))


def unmodelled() -> tuple[str, ...]:
    """Return what has happened since the last call (or loading) that is not as it would be on a real GPU.

    Each is one sentence with the place in the code outside PyTorch, told once; empty if all was modelled, and
    always where no virtual GPU is loaded. Told are:

    - **Reads**: numbers copied to the host are all zero, so a shape or branch that depends on them (``nonzero``,
      boolean masks, ``.item()`` in an ``if``) is wrong, and whatever it allocates. A loss that is only logged is
      harmless, which cannot be known here. Not told: ``torch.amp.GradScaler`` reads whether a gradient overflowed
      and finds that none did, as in every usual step.
    - **Times**: nothing takes any. A choice by time, which ``torch.backends.cudnn.benchmark`` makes, is another.
    - **Recurrent layers of cuDNN**: the weights are laid out exactly; reserve and workspace follow a formula fitted to
      cuDNN 9.24, within a few per cent for most shapes (driver/cudnn_recurrent.c).
    - **Calls that are refused** because the answer is not known: conditional nodes of CUDA graphs, cuSOLVER, cuSPARSE,
      cuFFT, NCCL. PyTorch mostly makes an error of them.

    Work that autograd's own thread does has no place in the code: ``in a backward pass``.
    """
    told = tuple(_written_down)
    _written_down.clear()
    return told


_WATCHER = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_SENTENCES = {
    "reads": "reads numbers from the GPU, which are all zero on a virtual one",
    "recurrent": "runs a recurrent layer of cuDNN, whose reserve and workspace follow a formula on a virtual GPU",
    "times": "measures time on the GPU, where nothing takes any on a virtual one",
}
_LIBRARIES = frozenset({"torch", "torchvision", "triton", "ctypes"})
_written_down: dict[str, None] = {}


def _write_down(deed: bytes) -> None:
    """Keep the deed and its place, once; called in the thread that does it."""
    frame = sys._getframe().f_back
    while frame and (module := frame.f_globals.get("__name__", "")).partition(".")[0] in _LIBRARIES:
        if module == "torch.amp.grad_scaler":
            return
        frame = frame.f_back
    place = "in a backward pass"
    if frame:
        path, line = frame.f_code.co_filename, frame.f_lineno
        place = f"at {Path(path).name}:{line}: {linecache.getline(path, line).strip()}"
    name = deed.decode()
    _written_down[f"{_SENTENCES.get(name, f'calls {name}, which the virtual GPU refuses')} ({place})"] = None
