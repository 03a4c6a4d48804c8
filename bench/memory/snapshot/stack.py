"""What the stack of an allocation tells: where in the program it was, and in which phase of a training step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from profl.bench.validation import printable

PHASES = ("forward", "backward", "optimizer", "other", "unknown")
"""In which an allocation can have happened.

forward
    A module was called, and none of the following.
backward
    The autograd engine ran.
optimizer
    PyTorch's optimizers ran, or the program named the time so.
other
    The stack shows none of these: the model or the batch is built, a loss computed.
unknown
    There is no stack.
"""

_LONGEST_TEXT = 160
_PYTHON = ".py"
_ENGINE = ("torch::autograd::Engine::", "torch::autograd::Node::operator()")
# Where a stack shows Python alone, backward is known by these.
_PYTHON_ENGINE = re.compile(r"(^|[/\\])torch[/\\]autograd[/\\](graph|__init__)\.py$")
_OPTIMIZER = re.compile(r"(^|[/\\])torch[/\\]optim[/\\]")
_MODULE = re.compile(r"(^|[/\\])torch[/\\]nn[/\\]modules[/\\]module\.py$")
_LIBRARY = re.compile(r"(^|[/\\])(site-packages|dist-packages|lib(64)?[/\\]python3[.\d]*|torch)[/\\]|^<frozen")
_BLAS_WORKSPACE = re.compile(r"at::cuda::.*(BlasHandle|Workspace|BlasLt.*orkspace)")


@dataclass(frozen=True, eq=False)
class Stack:
    """Who asked for memory.

    Parameters
    ----------
    frames
        Innermost first, each with ``name``, ``filename`` and perhaps ``line``: of C++, Python or both.
    metadata
        What the program had PyTorch stamp on its allocations. None: nothing.
    forward_frames
        In backward, the traceback of the node of the autograd graph, where it was recorded.
    """

    frames: Sequence[dict[str, Any]]
    metadata: str | None = None
    forward_frames: Sequence[str] = ()

    @cached_property
    def phase(self) -> str:
        """One of `PHASES`: what the innermost telling frame says."""
        in_module = False
        for frame in self.frames:
            name, file = frame["name"], frame["filename"]
            if name.startswith(_ENGINE) or _PYTHON_ENGINE.search(file):
                return "backward"
            if _OPTIMIZER.search(file):
                return "optimizer"
            in_module = in_module or _MODULE.search(file) is not None
        if in_module:
            return "forward"
        return "other" if self.frames else "unknown"

    @cached_property
    def place(self) -> str | None:
        """``folder/file:line function``, innermost of the program itself, else of a library in Python."""
        lines = [frame for frame in self.frames if frame["filename"].endswith(_PYTHON)]
        own = next((frame for frame in lines if not _LIBRARY.search(frame["filename"])), None)
        frame = own or next(iter(lines), None)
        if frame is None:
            return None
        file = "/".join(re.split(r"[/\\]", frame["filename"])[-2:])
        return shown(f"{file}:{frame.get('line', '?')} {frame['name']}")

    @cached_property
    def is_blas_workspace(self) -> bool:
        """Whether cuBLAS asked, for the workspace that it keeps from then on."""
        return any(_BLAS_WORKSPACE.match(frame["name"]) for frame in self.frames)


NO_STACK = Stack(())


def shown(text: str) -> str:
    """Return a text of a file as it may be shown: in one line, and the end of one that is too long."""
    text = printable(text)
    return text if len(text) <= _LONGEST_TEXT else "…" + text[1 - _LONGEST_TEXT :]
