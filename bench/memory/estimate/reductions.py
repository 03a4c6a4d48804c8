"""The partial results of CUDA's reductions, as PyTorch's ``Reduce.cuh`` splits them among blocks of threads."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod

import torch
from torch import Tensor

from profl.bench.memory.gpu.profile import VirtualGpu

_THREADS = 512
_WARP = 32
_FEWEST_VALUES, _MOST_VALUES = 16, 256  # that a thread adds up, where blocks share an output
_SEMAPHORE_BYTES = 4

_Dimension = tuple[int, int]  # size and stride, in elements


def partial_sums(tensor: Tensor, dims: Collection[int], gpu: VirtualGpu) -> Iterator[int]:
    """Yield the bytes of the blocks beside the result when ``tensor`` is summed over ``dims``.

    Where the outputs are too few to occupy ``gpu``, as in the gradient of a bias, blocks of threads share them, leave
    their sums in memory and signal when they have. Only where neighbours in memory belong to different outputs is that
    more than a few KiB: then every thread has a place of its own.
    """
    wanted = {dim % tensor.dim() for dim in dims} or set(range(tensor.dim()))
    reduced, kept = (
        _joined(tensor, [dim for dim in range(tensor.dim()) if (dim in wanted) is of]) for of in (True, False)
    )
    if not tensor.numel() or not reduced or not kept or reduced[0][1] < kept[0][1]:
        return
    outputs = prod(size for size, _ in kept)
    inputs = tensor.numel() // outputs
    vector = _vector(tensor, reduced, kept)
    width, height = _block(outputs // vector, inputs, _THREADS // vector)
    values = -(-inputs // height)
    grid = -(-(outputs // vector) // width)
    target = gpu.multiprocessors * (gpu.threads_per_multiprocessor // (width * height))
    if inputs < min(height * 16, _MOST_VALUES) or values < _MOST_VALUES or grid > target:
        return
    least, most = -(-values // _MOST_VALUES), -(-values // _FEWEST_VALUES)
    shares = min(max(-(-target // grid), least), most)
    if shares > 1:
        yield _accumulator_bytes(tensor.dtype) * outputs * shares * width * vector
        yield _SEMAPHORE_BYTES * grid


def _joined(tensor: Tensor, dims: Collection[int]) -> list[_Dimension]:
    """Return these dimensions, the nearest in memory first, and as one where they lie behind each other."""
    joined: list[_Dimension] = []
    for stride, size in sorted((tensor.stride(dim), tensor.size(dim)) for dim in dims if tensor.size(dim) > 1):
        if joined and stride == joined[-1][0] * joined[-1][1]:
            joined[-1] = (joined[-1][0] * size, joined[-1][1])
        else:
            joined.append((size, stride))
    return joined


def _vector(tensor: Tensor, reduced: list[_Dimension], kept: list[_Dimension]) -> int:
    """Return how many neighbouring outputs a thread loads at once."""
    (size, stride), *others = kept
    if stride != 1:
        return 1
    vector = 4
    for number in (tensor.storage_offset(), size, *(stride for _, stride in (*reduced, *others))):
        while number % vector:
            vector //= 2
    return vector


def _block(outputs: int, inputs: int, threads: int) -> tuple[int, int]:
    """Return the width and the height of a block of threads."""
    across, along = (min(_power_of_two(count), threads) for count in (outputs, inputs))
    height = min(along, threads // min(across, _WARP))
    return min(across, threads // height), height


def _power_of_two(number: int) -> int:
    """Return the largest one that is no larger."""
    return 1 << (max(number, 1).bit_length() - 1)


def _accumulator_bytes(dtype: torch.dtype) -> int:
    return max(dtype.itemsize, 4) if dtype.is_floating_point or dtype.is_complex else 8
