"""The footprint of a training step where nothing can run it: estimated, not measured.

The step runs on PyTorch's fake tensors, which have shapes but no values, so any machine with any build of PyTorch will
do. Every storage that an operator returns is an allocation, and its death a free; `profl.bench.memory.estimate.kernels`
adds what CUDA's kernels are known to take beside, and `profl.bench.memory.replay.allocator` turns the trace into
reserved bytes and the least budget. Where the numbers may be off:

- The workspaces of cuDNN's convolutions are not known without the library, and left out.
- So is scratch memory of kernels that nobody has looked at, as that of sorting, and columns of convolutions without
  cuDNN. That of attention, sums, losses and embeddings is known.
- Nothing is computed: numbers read on the host are zero, and an operator whose result's size depends on values fails.
"""

from __future__ import annotations

from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu.build import build
from profl.bench.memory.gpu.profile import ESTIMATE, VIRTUAL

__all__ = ["best_available"]


def best_available(gpu: str) -> tuple[str, str | None]:
    """Return the GPU to measure on in place of ``gpu``, and a line that says why: ``gpu`` and None if it can be had.

    An estimate takes the place of a virtual GPU that cannot run here, be it for want of Linux, of PyTorch's CUDA
    libraries or of a C compiler. To find out, the virtual GPU is built if it never was, as measuring would.
    """
    if gpu.startswith(VIRTUAL):
        try:
            build()
        except GpuUnavailable as error:
            reason = str(error).partition("\n")[0]
            estimate = ESTIMATE + gpu.removeprefix(VIRTUAL)
            return estimate, f"{gpu} cannot run here, its memory is estimated, not measured ({estimate}): {reason}"
    return gpu, None
