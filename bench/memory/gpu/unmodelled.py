"""Hear what the virtual GPU cannot play as a real one would, and have refused what would be made up."""

from __future__ import annotations

import atexit
import ctypes
import linecache
import re
import sys
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import NamedTuple

MOST_READS = 20_000
"""At one place: more are a loop that waits for a number."""

_PLAY, _LEAVE, _FAIL = range(3)  # of driver/virtual_gpu.h
_LIBRARIES = frozenset({"torch", "torchvision", "triton", "ctypes", "typing_extensions", "warnings"})
_SAID = 200  # characters of an error's message


def watch(driver: ctypes.CDLL) -> None:
    """Listen to the driver from now on."""
    driver.virtual_gpu_watch(_watcher)
    atexit.register(driver.virtual_gpu_watch, None)  # PyTorch takes itself down when Python can listen no more


def unmodelled() -> tuple[str, ...]:
    """Return what has happened since the last call (or loading) that is not as it would be on a real GPU.

    Each is one sentence with the place in the code outside PyTorch, told once, and how often; empty if all was
    modelled, and always where no virtual GPU is loaded. Told are:

    - **Reads**: numbers copied to the host are all zero, so a branch that depends on them (``.item()`` in an ``if``) is
      wrong, and whatever it allocates. A loss that is only logged is harmless, which cannot be known here. Not told:
      ``torch.amp.GradScaler`` reads whether a gradient overflowed and finds that none did, as in every usual step; a
      process group sends numbers from the host, at which nobody looks; and ``torch.compile`` keeps aside what kernels
      overwrite of which it tries configurations.
    - **Sizes that are read** (``nonzero``, a mask as index, ``unique``, ...) are refused, and so is the loop that reads
      more than `MOST_READS` times.
    - **Times**: nothing takes any. A choice by time, which ``torch.backends.cudnn.benchmark`` makes, is another.
    - **Recurrent layers of cuDNN**: all sizes are stated here, as cuDNN 9.19 told them on one H100, to the byte. What
      differs by compute capability was seen on no card (driver/cudnn_recurrent.c).
    - **Calls that are refused** because the answer is not known: conditional nodes of CUDA graphs, cuSOLVER, cuSPARSE,
      cuFFT, NCCL. PyTorch mostly makes an error of them.

    Work that autograd's own thread does has no place in the code: ``in a backward pass``.
    """
    told = tuple(f"{deed}{f', {times} times' if times > 1 else ''}" for deed, times in _heard.items())
    _heard.clear()
    return told


def blame(error: Exception) -> str | None:
    """Return in one line, with the remedy, which of what `unmodelled` would tell now made a program raise ``error``.

    That is what was refused, or else what was read, in the very line where the program gave up. None: nothing was.
    """
    passed = [
        _Place(frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _in_library(frame)
    ]
    for deed in sorted(_heard, key=lambda deed: deed.kind.refused, reverse=True):
        if deed.place in passed[-1:] or (deed.place is None and deed.kind.refused):
            said = "" if deed.kind.refused else f", and gives up there ({_shortened(error)})"
            return f"it {deed}{said}: {deed.kind.remedy}"
    return None


class _Kind(NamedTuple):
    """What can be heard.

    Parameters
    ----------
    sentence
        What the program does.
    remedy
        What to do where that is its end.
    refused
        Whether it fails.
    """

    sentence: str
    remedy: str = "leave it out, or measure on a GPU"
    refused: bool = False


_KINDS = {
    "reads": _Kind(
        "reads numbers from the GPU, which are all zero on a virtual one",
        "decide on the CPU, leave the check out (as by validate_args=False), or measure on a GPU",
    ),
    "recurrent": _Kind(
        "runs a recurrent layer of cuDNN, whose reserve and workspace are known from one H100 with cuDNN 9.19"
    ),
    "times": _Kind("measures time on the GPU, where nothing takes any on a virtual one"),
}
_MERGING = _Kind(
    "merges the rows of a sparse tensor, and finds none on a virtual GPU: what those take that are left is not counted"
)
_ENDLESS = _Kind(
    f"reads numbers from the GPU {MOST_READS} times in one place, and they stay zero on a virtual one",
    "end the loop by a count, or measure on a GPU",
    refused=True,
)
# Of libraries, by what their functions begin with.
_REMEDIES = {
    "nccl": "choose the backend gloo",
    "cudnn": "leave cuDNN out with torch.backends.cudnn.flags(enabled=False)",
    "cusolver": "compute that on the CPU, or leave it out",
    "cusparse": "compute that with dense tensors, or leave it out",
    "cufft": "compute that on the CPU, or leave it out",
    "cudaGraph": "run the step without CUDA graphs",
    "cudaStreamBeginCapture": "run the step without CUDA graphs",
}


_DECIDING_NOTHING = ("GradScaler._maybe_opt_step", "CachingAutotuner.copy_args_to_cpu_if_needed")
"""Who reads numbers of which nothing depends here: whether gradients overflow, and what a kernel overwrites, kept aside
while torch.compile tries its configurations."""


class _Place(NamedTuple):
    path: str
    line: int

    def __str__(self) -> str:
        return f"at {Path(self.path).name}:{self.line}: {linecache.getline(*self).strip()}"


@dataclass(frozen=True)
class _Deed:
    """What was heard, and where; None: in a thread of autograd's."""

    kind: _Kind
    place: _Place | None

    def __str__(self) -> str:
        return f"{self.kind.sentence} ({self.place or 'in a backward pass'})"


_heard: Counter[_Deed] = Counter()


def _hear(deed: bytes, callers: bytes) -> int:
    """Keep the deed and its place; called in the thread that does it. Return what the driver is to do."""
    name, asking = deed.decode(), _asking(callers)
    if asking.arranges_buckets:
        return _LEAVE
    if asking.is_process_group and name in _KINDS:
        return _PLAY
    frame: FrameType | None = sys._getframe().f_back
    is_shown = False
    while frame and _in_library(frame):
        if frame.f_code.co_qualname.startswith(_DECIDING_NOTHING):
            return _PLAY
        is_shown |= frame.f_globals["__name__"] == "torch._tensor_str"  # chooses among the few numbers that it prints
        frame = frame.f_back
    place = frame and _Place(frame.f_code.co_filename, frame.f_lineno)
    kind = _KINDS.get(name) or _refused(name)
    if name == "reads" and "coalesce" in asking.operators:
        kind = _MERGING
    elif name == "reads" and asking.is_sized and not is_shown:
        kind = _sized(asking.operators[0])
    elif name == "reads" and place and _heard[_Deed(kind, place)] >= MOST_READS:
        kind = _ENDLESS
    _heard[_Deed(kind, place)] += 1
    return _FAIL if kind.refused else _PLAY


_watcher = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)(_hear)


def _refused(function: str) -> _Kind:
    remedy = next((remedy for start, remedy in _REMEDIES.items() if function.startswith(start)), _Kind.remedy)
    return _Kind(f"calls {function}, which the virtual GPU refuses", remedy, refused=True)


def _sized(operator: str) -> _Kind:
    return _Kind(
        f"asks {operator} for a result as large as numbers on the GPU say, which are all zero on a virtual one",
        "choose with torch.where or masked_fill, give the size (output_size, num_classes, nonzero_static), do it on "
        "the CPU, or measure on a GPU",
        refused=True,
    )


class _Asking(NamedTuple):
    """Who asks CUDA.

    Parameters
    ----------
    operators
        That are at work, outermost first.
    is_sized
        Whether what is read is the size of a result.
    is_process_group
        Whether numbers are on their way to other processes.
    arranges_buckets
        Whether DistributedDataParallel has sent itself a plan of its buckets, and would read it back to where the plan
        already is: in a group of one it stays what it was.
    """

    operators: tuple[str, ...]
    is_sized: bool
    is_process_group: bool
    arranges_buckets: bool


# As C++ mangles names: a namespace, the length of the next name, and that.
_OPERATOR = re.compile(r"_ZN2at4_ops(\d+)(\w+)")


@lru_cache(maxsize=4096)
def _asking(callers: bytes) -> _Asking:
    """Read the functions that called, innermost first, up to the first of Python's."""
    called = list(takewhile(lambda name: not name.startswith("_PyEval_"), callers.decode().split("\n")))
    names = [found[2][: int(found[1])] for name in called if (found := _OPERATOR.match(name))]
    operators = [_operators()[name] for name in names if name in _operators()]
    return _Asking(
        operators=tuple(operator.name for operator in reversed(operators)),
        is_sized=any(operator.is_sized for operator in operators),
        is_process_group=any(name.startswith("_ZN4c10d") for name in called),
        arranges_buckets=any(name.startswith("_ZN4c10d7Reducer") for name in called),
    )


class _Operator(NamedTuple):
    """An operator by its name in Python; whether PyTorch says that it reads how large its results are."""

    name: str
    is_sized: bool


@cache
def _operators() -> Mapping[str, _Operator]:
    """Return PyTorch's own operators by their names in C++."""
    import torch

    operators: dict[str, _Operator] = {}
    for full_name in torch._C._dispatch_get_all_op_names():
        namespace, _, name = full_name.partition("::")
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if namespace == "aten" and operator is not None:
            is_sized = torch.Tag.dynamic_output_shape in operator.tags
            plain_name = packet.strip("_").rstrip("2")  # of _unique2
            operators["_".join(filter(None, (packet, overload)))] = _Operator(plain_name, is_sized)
    return operators


def _in_library(frame: FrameType) -> bool:
    return _is_library(frame.f_globals.get("__name__", "")) or "/torch/_functorch/" in frame.f_code.co_filename


@cache
def _is_library(module: object) -> bool:
    return str(module).partition(".")[0] in _LIBRARIES


def _shortened(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}{said and ': '}{said[:_SAID]}"
