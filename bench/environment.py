"""Where a cell is trained: versions, machine, and which instructions and libraries compute."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from profl.bench.instructions import AVX2, NATIVE, are_set, processor_model

UNKNOWN = "unknown"

_ARITHMETIC = (
    "instructions",
    "cpu_capability",
    "onednn_max_cpu_isa",
    "mkl_cbwr",
    "torch",
    "onednn",
    "mkl",
    "blas",
    "torch_threads_per_worker",
)


def training_environment() -> dict[str, Any]:
    """Return where this process trains, as a cell's ``environment.json`` keeps it.

    ``instructions`` is `AVX2` only if it is in force for every library, and ``cpu_capability`` is PyTorch's own word.
    The limits of oneDNN and MKL are the variables that they obey; neither can be asked what it made of them.
    """
    build = torch.__config__.show()
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "profl": version("profl"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "processor_model": processor_model(),
        "cores": os.cpu_count(),
        "torch_threads_per_worker": 1,
        "instructions": AVX2 if capability == "AVX2" and are_set() else NATIVE,
        "cpu_capability": capability,
        "onednn": _built_with(r"MKL-DNN v([\d.]+)", build),
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "not limited"),
        "mkl": _built_with(r"Math Kernel Library Version ([\d.]+)", build),
        "mkl_cbwr": os.environ.get("MKL_CBWR", "not set"),
        "blas": _built_with(r"BLAS_INFO=(\w+)", build),
    }


def memory_bytes() -> int:
    """Return the memory of this machine, or what of it this process's container may have."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such limit, or the word max
        return installed


def _built_with(pattern: str, build: str) -> str:
    found = re.search(pattern, build)
    return found[1] if found else UNKNOWN


def arithmetic(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return what of an environment decides how results are rounded; where all of it is the same, they are.

    The processor is part of it wherever kernels are those of its kind.
    """
    native = environment.get("instructions") != AVX2
    names = (*_ARITHMETIC, "processor_model") if native else _ARITHMETIC
    return {name: str(environment.get(name, UNKNOWN)) for name in names}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return what differs in the arithmetic of two environments: ``instructions native and avx2``, and the like."""
    left, right = arithmetic(one), arithmetic(other)
    differing = [name for name in left if name in right and left[name] != right[name]]
    return [f"{name.replace('_', ' ')} {left[name]} and {right[name]}" for name in differing]


def mixture(environments: Iterable[Mapping[str, Any]]) -> str:
    """Return in a few words how the arithmetic of several environments differs; empty if it does not."""
    first, *others = list(environments) or [{}]
    found = list(dict.fromkeys(text for other in others for text in differences(first, other)))
    return found[0] + (f", and {len(found) - 1} more" if len(found) > 1 else "") if found else ""
