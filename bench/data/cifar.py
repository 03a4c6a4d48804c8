"""CIFAR-10 and CIFAR-100 through torchvision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profl.bench.data.dataset import Dataset, normalised
from profl.bench.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = {"cifar10": 10, "cifar100": 100}


def default_root() -> Path:
    """Return the folder for downloads: ``profl/data`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "profl" / "data"


def load(name: str, root: Path | None) -> Dataset:
    """Load CIFAR: 50,000 pictures to train, 10,000 to test. Takes 740 MB of memory.

    Parameters
    ----------
    name
        ``cifar10`` or ``cifar100``.
    root
        Folder that holds, or will hold, torchvision's ``cifar-10-batches-py`` or ``cifar-100-python``.
        `default_root` if None.

    Raises
    ------
    InputError
        If the data is neither there nor can be downloaded.
    """
    import torch

    root = default_root() if root is None else root
    train, test = _split(name, root, train=True), _split(name, root, train=False)
    train_inputs, test_inputs = normalised(_pictures(train), _pictures(test))
    train_targets, test_targets = torch.tensor(train.targets), torch.tensor(test.targets)
    return Dataset(name, train_inputs, train_targets, test_inputs, test_targets, CLASSES[name], augment=True)


def _split(name: str, root: Path, train: bool) -> Any:
    from filelock import FileLock
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        return source(root, train=train)
    except (RuntimeError, OSError):
        pass  # absent or damaged
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):  # workers that start together download once
            return source(root, train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{name} is not in {root} and cannot be downloaded ({error}): unpack {source.filename} from "
            f"{source.url} there, or use the dataset 'digits', which needs no download"
        ) from error


def _pictures(split: Any) -> Tensor:
    import torch

    return torch.from_numpy(split.data).permute(0, 3, 1, 2)
