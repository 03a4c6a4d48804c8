"""Hear what the virtual GPU cannot play as a real one would."""

from __future__ import annotations

import atexit
import ctypes
import linecache
import sys
from pathlib import Path


def watch(driver: ctypes.CDLL) -> None:
    """Listen to the driver from now on."""
    driver.virtual_gpu_watch(_watcher)
    atexit.register(driver.virtual_gpu_watch, None)  # PyTorch takes itself down when Python can listen no more


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
    - **Calls that are refused** because the answer is not known: CUDA graphs, cuSOLVER, cuSPARSE, cuFFT, NCCL. PyTorch
      mostly makes an error of them.

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


_watcher = _WATCHER(_write_down)
