"""Passages of SciPy's own documentation, told apart by the subpackage they are from: text that is installed already.

SciPy is a dependency, and its docstrings are under its licence (BSD 3-Clause), which allows this. They are those of the
installed version: results compare within one.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

from profl.bench.data.dataset import Dataset
from profl.bench.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

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
    train_inputs, train_targets = _side(tested=False, count=TRAIN_PASSAGES)
    test_inputs, test_targets = _side(tested=True, count=TEST_PASSAGES)
    classes = len(SUBPACKAGES)
    return Dataset("docstrings", train_inputs, train_targets, test_inputs, test_targets, classes, augment=False)


def _side(tested: bool, count: int) -> tuple[Tensor, Tensor]:
    """Return ``count`` passages of every class, int64 (examples, `PASSAGE`), and their classes, int64 (examples,)."""
    import torch

    of_classes = [_passages(name, tested) for name in SUBPACKAGES]
    if any(len(passages) < count for passages in of_classes):
        raise InputError("dataset 'docstrings' finds too few in SciPy: run Python without -OO")
    chosen = [passages[len(passages) * number // count] for passages in of_classes for number in range(count)]
    targets = torch.arange(len(SUBPACKAGES)).repeat_interleave(count)
    return torch.tensor([list(passage) for passage in chosen]), targets


def _passages(subpackage: str, tested: bool) -> list[bytes]:
    """Return the passages of a subpackage's docstrings on one side, each of `PASSAGE` bytes."""
    module = importlib.import_module(f"scipy.{subpackage}")
    result = []
    for number, name in enumerate(sorted(module.__all__)):
        if (number % 5 == 4) == tested:
            text = " ".join((inspect.getdoc(getattr(module, name)) or "").split()).encode("ascii", "replace")
            result += [text[start : start + PASSAGE] for start in range(0, len(text) - PASSAGE + 1, PASSAGE)]
    return result
