"""Which instructions of the processor training uses: chosen before torch is imported, as libraries look once."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

AVX2, NATIVE = "avx2", "native"
INSTRUCTIONS = (AVX2, NATIVE)
"""The same on every x86-64 processor that has AVX2, or whatever the libraries think best for the one at hand."""

# Kernels differ in the order of their sums, and so in how they round.
VARIABLES = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    # Matrix products and some functions of vectors. MKL's AVX2 branch is for Intel's processors alone; on others that
    # setting falls back to the branch of their own. This is the one branch that it has for all.
    "MKL_CBWR": "COMPATIBLE",
}
"""Environment variables that make torch's libraries compute alike on every processor with AVX2."""


def choose(instructions: str) -> str | None:
    """Have this process and those that it starts train with these instructions; to be called before torch is imported.

    `NATIVE` changes nothing: environment variables of the user's own stay in force.

    Parameters
    ----------
    instructions
        One of `INSTRUCTIONS`.

    Returns
    -------
    str or None
        In one line, why the choice cannot be had, if so: everything then runs natively.
    """
    if instructions == NATIVE or are_set():
        return None
    if not has_avx2():
        return (
            f"no AVX2 on this processor ({processor_model()}): training is native, and its results are the same to the "
            "bit on processors of this kind alone"
        )
    if "torch" in sys.modules:
        return (
            "torch was imported before instructions were chosen: training is native; call "
            "profl.bench.instructions.choose first, or use the command"
        )
    os.environ.update(VARIABLES)
    return None


def are_set() -> bool:
    """Return whether the variables have the values of `VARIABLES`."""
    return all(os.environ.get(name) == value for name, value in VARIABLES.items())


def has_avx2() -> bool:
    """Return whether the processor is an x86-64 with AVX2, and with FMA, which the kernels use too, as Linux tells."""
    return platform.machine() == "x86_64" and {"avx2", "fma"} <= set(_processor("flags").split())


def processor_model() -> str:
    """Return the processor's name as Linux tells it, or only its architecture."""
    return _processor("model name") or platform.machine()


def _processor(field: str) -> str:
    """Return a field of the first processor in ``/proc/cpuinfo``; empty if there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    found = re.search(rf"^{field}\s*: (.*)$", text, flags=re.MULTILINE)
    return found[1] if found else ""
