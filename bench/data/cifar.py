"""CIFAR-10 and CIFAR-100 through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from profl.bench.data.dataset import Dataset, normalised
from profl.bench.data.downloaded import default_root, downloaded

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = {"cifar10": 10, "cifar100": 100}


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
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    return downloaded(name, source, root, f"unpack {source.filename} from {source.url} there", train=train)


def _pictures(split: Any) -> Tensor:
    import torch

    return torch.from_numpy(split.data).permute(0, 3, 1, 2)
