"""Datasets that torchvision downloads, once for all workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from profl.bench.errors import InputError, in_one_line

_UNUSABLE = (AssertionError, OSError, RuntimeError, TypeError, ValueError)
"""What torchvision raises where data is absent or damaged."""


def default_root() -> Path:
    """Return the folder for downloads: ``profl/data`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "profl" / "data"


def downloaded(name: str, source: Callable[..., Any], root: Path, remedy: str, **which: Any) -> Any:
    """Return torchvision's dataset, downloaded first if it is not there.

    Parameters
    ----------
    name
        Ours, for the message and the lock.
    source
        Torchvision's class.
    root
        The folder that holds, or will hold, its files.
    remedy
        What to put where, by hand.
    which
        Which split, as ``source`` takes it.

    Raises
    ------
    InputError
        If the data is neither there nor can be downloaded.
    """
    from filelock import FileLock

    try:
        return source(root, **which)
    except _UNUSABLE:
        pass
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):  # workers that start together download once
            return source(root, **which, download=True)
    except _UNUSABLE as error:
        raise InputError(
            f"{name} is not in {root} and cannot be downloaded ({in_one_line(error)}): {remedy}, or use the dataset "
            "'digits', which needs no download"
        ) from error
