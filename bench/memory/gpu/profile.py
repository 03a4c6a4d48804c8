"""The names of GPUs, and what is known of the virtual ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from profl.bench.errors import choose, nearest
from profl.bench.memory.errors import UnknownGpu

PHYSICAL = "cuda"
VIRTUAL, ESTIMATE = "virtual:", "estimate:"
"""What the names of GPUs begin with that are not there, and that are not even played but estimated."""

ARCHITECTURES = (75, 80, 86, 87, 88, 89, 90, 100, 103, 120, 121)
"""Compute capabilities, as ``sm_XX`` names them, on which PyTorch's CUDA 13 build runs."""

WITH_KERNELS = (75, 80, 86, 90, 100, 120)
"""Those of them that the build holds kernels for. The others run the kernels of an earlier one of their generation, and
libraries such as CUB refuse a GPU that claims anything else."""

_SHOWN = {VIRTUAL: "virtual", ESTIMATE: "estimated"}
_PROFILES = Path(__file__).with_name("profiles")
_REFERENCE = "h100"


@dataclass(frozen=True)
class VirtualGpu:
    """A GPU that is not there.

    Parameters
    ----------
    name
        Begins with ``virtual``, and PyTorch reports it as the device's name; or with ``estimated``.
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

    @property
    def kernel_architecture(self) -> int:
        """Which of `WITH_KERNELS` it runs: 86 on an ``sm_89``."""
        major, minor = self.capability
        return max(known for known in WITH_KERNELS if known // 10 == major and known <= 10 * major + minor)


@dataclass(frozen=True)
class Profile:
    """What a file in ``profiles/`` says of a GPU, and where that is published.

    Parameters
    ----------
    name
        What `resolve` accepts.
    board
        The product; or, for a profile that no product has, what it is made of.
    memory_figure
        What ``gpu.total_bytes`` is: ``driver``, the bytes that a driver reported; ``driver, whole MiB``, the
        same with less than a MiB cut off; or ``nominal``, the size that is advertised.
    sources
        For the address of each page, the fields of cuDNN's JSON that it states.
    unconfirmed
        The fields for which no such page was found.
    note
        What else to know before trusting the numbers; may be empty.
    """

    name: str
    board: str
    gpu: VirtualGpu
    memory_figure: str
    sources: Mapping[str, tuple[str, ...]]
    unconfirmed: tuple[str, ...]
    note: str


def profiles() -> list[Profile]:
    """Return every profile, ordered by name; one that has two names comes twice."""
    return [_profile(name) for name in _names()]


def known_gpus() -> list[str]:
    """Return every name that `resolve` accepts, apart from ``virtual:sm_XX``, and ``estimate:`` for ``virtual:``."""
    return [PHYSICAL, *(VIRTUAL + name for name in _names())]


def resolve(gpu: str) -> VirtualGpu | None:
    """Return the virtual GPU that is meant, or None for ``cuda``, the machine's own.

    Parameters
    ----------
    gpu
        ``cuda``, ``virtual:NAME``, or ``virtual:sm_XX`` for a compute capability XX of `ARCHITECTURES`: the
        memory and multiprocessors of an H100, and convolutions without a workspace. ``estimate:`` in place of
        ``virtual:`` means the same GPU, on which nothing runs.

    Raises
    ------
    GpuUnavailable
        If the name is unknown, in which case the message lists the known ones and first the one that it nearly is,
        or if PyTorch no longer supports the GPU.
    """
    if gpu == PHYSICAL:
        return None
    kind, colon, name = gpu.partition(":")
    if kind + colon in _SHOWN:
        shown = f"{_SHOWN[kind + colon]} {name}"
        if name in _names():
            return _gpu(_file(name)["cudnn_device"], shown)
        generic = re.fullmatch(r"sm_(\d{2,3})", name)
        if generic and int(generic[1]) in ARCHITECTURES:
            return _gpu(_file(_REFERENCE)["cudnn_device"], shown, int(generic[1]))
    known = (
        f"{', '.join(known_gpus())}, estimate:NAME for any virtual:NAME, "
        f"or virtual:sm_XX with XX one of {', '.join(map(str, ARCHITECTURES))}"
    )
    if kind + colon in _SHOWN and name in (path.stem for path in _PROFILES.glob("*.json")):
        raise UnknownGpu(f"no GPU '{gpu}': {_file(name)['refused']}; choose one of {known}")
    raise UnknownGpu(f"unknown GPU '{gpu}': {choose(_nearest(gpu), known)}")


def spelled_out(gpu: str) -> str:
    """Return ``virtual:t4`` for ``t4``, and whatever is no name of a virtual GPU as it is."""
    return VIRTUAL + gpu if gpu in _names() else gpu


def _nearest(gpu: str) -> str | None:
    """Return the GPU that ``gpu`` nearly names; a virtual one if it does not say of which kind."""
    kind, colon, name = gpu.rpartition(":")
    prefix = kind + colon if kind + colon in _SHOWN else VIRTUAL
    meant = nearest(name, [PHYSICAL, *_names()])
    return meant if meant in (None, PHYSICAL) else prefix + meant


def _names() -> list[str]:
    """Return the names of the files that describe a GPU which PyTorch supports."""
    return [path.stem for path in sorted(_PROFILES.glob("*.json")) if "refused" not in _file(path.stem)]


@cache
def _file(name: str) -> Mapping[str, Any]:
    """Read a file; where it only names another one, that one."""
    content = json.loads((_PROFILES / f"{name}.json").read_text(encoding="utf-8"))
    return _file(content["same_as"]) if "same_as" in content else MappingProxyType(content)


def _profile(name: str) -> Profile:
    content = _file(name)
    return Profile(
        name=VIRTUAL + name,
        board=content["board"],
        gpu=_gpu(content["cudnn_device"], f"{_SHOWN[VIRTUAL]} {name}"),
        memory_figure=content["memory_figure"],
        sources={address: tuple(fields) for address, fields in content["sources"].items()},
        unconfirmed=tuple(content["unconfirmed"]),
        note=content.get("note", ""),
    )


def _gpu(device: Mapping[str, Any], name: str, architecture: int | None = None) -> VirtualGpu:
    """Return the GPU that cuDNN's JSON describes; with ``architecture``, a generic one of that architecture."""
    return VirtualGpu(
        name=name,
        total_bytes=device["totalGlobalMem"],
        capability=divmod(architecture or device["deviceVer"] // 10, 10),
        multiprocessors=device["multiProcessorCount"],
        threads_per_multiprocessor=device["maxThreadsPerSM"],
        blocks_per_multiprocessor=device["maxCtasPerSM"],
        shared_bytes_per_block=device["maxSharedMemoryPerBlockOptin"],
        reserved_shared_bytes_per_block=device["reservedSharedMemoryPerBlock"],
        l2_cache_bytes=device["l2CacheSize"],
        cudnn_device=json.dumps(device),
        cudnn_workspaces=architecture is None,
    )
