"""The names of GPUs, and what is known of the virtual ones."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from bench.memory.errors import GpuUnavailable

PHYSICAL = "cuda"
_PROFILES = Path(__file__).with_name("profiles")
_OLDEST_CAPABILITY = 75
_REFERENCE = "h100"


@dataclass(frozen=True)
class VirtualGpu:
    """A GPU that is not there.

    Parameters
    ----------
    name
        Always begins with ``virtual``; PyTorch reports it as the device's name.
    capability
        Compute capability, major and minor.
    shared_bytes_per_block
        The most shared memory that a kernel can opt in to.
    cudnn_device
        The device in cuDNN's own JSON, from which its heuristics choose convolution plans.
    cudnn_workspaces
        False: plans are said to need no workspace, so the numbers depend on no particular board.
    """

    name: str
    total_bytes: int
    capability: tuple[int, int]
    multiprocessors: int
    threads_per_multiprocessor: int
    blocks_per_multiprocessor: int
    shared_bytes_per_block: int
    reserved_shared_bytes_per_block: int
    l2_cache_bytes: int
    cudnn_device: str
    cudnn_workspaces: bool


def known_gpus() -> list[str]:
    """Return every name that `resolve` accepts, apart from the pattern ``virtual:sm_XX``."""
    return [PHYSICAL, *(f"virtual:{path.stem}" for path in sorted(_PROFILES.glob("*.json")))]


def resolve(gpu: str) -> VirtualGpu | None:
    """Return the virtual GPU that is meant, or None for ``cuda``, the machine's own.

    Parameters
    ----------
    gpu
        ``cuda``, ``virtual:NAME``, or ``virtual:sm_XX`` for any compute capability XX: the memory of an H100
        and convolutions without a workspace.

    Raises
    ------
    GpuUnavailable
        If the name is unknown; the message lists the known ones.
    """
    if gpu == PHYSICAL:
        return None
    name = gpu.removeprefix("virtual:")
    if gpu in known_gpus():
        return _read(name, name)
    generic = re.fullmatch(r"virtual:sm_(\d{2,3})", gpu)
    if generic and int(generic[1]) >= _OLDEST_CAPABILITY:
        return _read(_REFERENCE, name, int(generic[1]))
    known = ", ".join(known_gpus())
    raise GpuUnavailable(
        f"unknown GPU '{gpu}': choose one of {known}, or virtual:sm_XX with XX a compute capability from "
        f"{_OLDEST_CAPABILITY} on"
    )


def _read(profile: str, name: str, capability: int | None = None) -> VirtualGpu:
    """Read a profile; with ``capability``, play a generic GPU of that capability instead."""
    device = json.loads((_PROFILES / f"{profile}.json").read_text(encoding="utf-8"))["cudnn_device"]
    return VirtualGpu(
        name=f"virtual {name}",
        total_bytes=device["totalGlobalMem"],
        capability=divmod(capability or device["deviceVer"] // 10, 10),
        multiprocessors=device["multiProcessorCount"],
        threads_per_multiprocessor=device["maxThreadsPerSM"],
        blocks_per_multiprocessor=device["maxCtasPerSM"],
        shared_bytes_per_block=device["maxSharedMemoryPerBlockOptin"],
        reserved_shared_bytes_per_block=device["reservedSharedMemoryPerBlock"],
        l2_cache_bytes=device["l2CacheSize"],
        cudnn_device=json.dumps(device),
        cudnn_workspaces=capability is None,
    )
