"""Passages of SciPy's own documentation, told apart by the subpackage they are from: text that is installed already.

SciPy is a dependency, and its docstrings are under its licence (BSD 3-Clause), which allows this. They are those of the
installed version: results compare within one.
"""

from __future__ import annotations

import importlib
import inspect

from profl.bench.data.dataset import Dataset
from profl.bench.errors import InputError

# fmt: off
SUBPACKAGES = (
    "fft", "integrate", "interpolate", "linalg", "ndimage", "optimize", "signal", "sparse", "special", "stats",
)
# fmt: on
"""The classes, in their order."""

PASSAGE = 128
"""Characters of an example."""

TRAIN_PASSAGES, TEST_PASSAGES = 160, 40
"""Examples of every class."""


def load() -> Dataset:
    """Load the passages: 1,600 to train, 400 to test, each 128 ASCII codes, int64.

    Every fifth object of a subpackage, by name, is for testing, so that no docstring is on both sides. Of what a side
    has, passages are taken evenly; runs of blanks and line ends are one blank, what is not ASCII is a question mark.

    Raises
    ------
    InputError
        If the installed SciPy has too few docstrings, as where Python runs without them.
    """
    import torch

    sides = [[_passages(name, tested) for name in SUBPACKAGES] for tested in (False, True)]
    tensors = []
    for classes, count in zip(sides, (TRAIN_PASSAGES, TEST_PASSAGES), strict=True):
        if any(len(passages) < count for passages in classes):
            raise InputError("dataset 'docstrings' finds too few in SciPy: run Python without -OO")
        chosen = [passages[len(passages) * number // count] for passages in classes for number in range(count)]
        targets = torch.arange(len(SUBPACKAGES)).repeat_interleave(count)
        tensors += [torch.tensor([list(passage) for passage in chosen]), targets]
    return Dataset("docstrings", *tensors, len(SUBPACKAGES), augment=False)


def _passages(subpackage: str, tested: bool) -> list[bytes]:
    """Return the passages of a subpackage's docstrings on one side, each of `PASSAGE` bytes."""
    module = importlib.import_module(f"scipy.{subpackage}")
    result = []
    for number, name in enumerate(sorted(module.__all__)):
        if (number % 5 == 4) == tested:
            text = " ".join((inspect.getdoc(getattr(module, name)) or "").split()).encode("ascii", "replace")
            result += [text[start : start + PASSAGE] for start in range(0, len(text) - PASSAGE + 1, PASSAGE)]
    return result
