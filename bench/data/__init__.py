"""Datasets as tensors; their partitions over clients are in `profl.bench.data.partition`.

Their names are wanted at once, and torch, torchvision and scikit-learn take seconds to import: every function here
imports them when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from profl.bench.data import cifar, digits, docstrings, emnist, imagefolder
from profl.bench.data.augmentation import augment
from profl.bench.data.dataset import PICTURE_SHAPE, Dataset
from profl.bench.errors import InputError, unknown

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DATASETS", "Dataset", "augment", "classes_of", "load_dataset", "shape_of", "takes_folder", "users_of"]


def _folder(root: Path | None) -> Path:
    if root is None:
        raise InputError(
            "dataset 'imagefolder' needs the folder that holds train/<class> and test/<class>: name it with --data"
        )
    return root


class Source(NamedTuple):
    """Where a dataset comes from: how to load it, how to count its classes without that, and if it lies in a folder.

    ``shape`` is that of one example, for the models that take it; ``users`` tells who holds each training example, of
    datasets that say so.
    """

    load: Callable[[Path | None], Dataset]
    classes: Callable[[Path | None], int]
    in_folder: bool = True
    shape: tuple[int, ...] = PICTURE_SHAPE
    users: Callable[[Path | None], Tensor] | None = None


DATASETS: Mapping[str, Source] = {
    "cifar10": Source(partial(cifar.load, "cifar10"), lambda root: cifar.CLASSES["cifar10"]),
    "cifar100": Source(partial(cifar.load, "cifar100"), lambda root: cifar.CLASSES["cifar100"]),
    "digits": Source(lambda root: digits.load(), lambda root: digits.CLASSES, in_folder=False),
    "docstrings": Source(
        lambda root: docstrings.load(),
        lambda root: len(docstrings.SUBPACKAGES),
        in_folder=False,
        shape=(docstrings.PASSAGE,),
    ),
    "emnist": Source(emnist.load, lambda root: emnist.CLASSES),
    "imagefolder": Source(
        lambda root: imagefolder.load(_folder(root)),
        lambda root: len(imagefolder.classes(_folder(root))),
        users=lambda root: imagefolder.users(_folder(root)),
    ),
}
"""The datasets by name."""


def load_dataset(name: str, root: Path | None = None, with_users: bool = False) -> Dataset:
    """Load a dataset into memory.

    Parameters
    ----------
    name
        One of `DATASETS`.
    root
        Where the data lies. ``cifar10``, ``cifar100`` and ``emnist``: torchvision's folder, to which they are
        downloaded if absent; in the user's cache if None. ``imagefolder``: the folder above ``train`` and ``test``.
        ``digits`` and ``docstrings`` need none.
    with_users
        Whether the dataset is to say who holds each training example.

    Raises
    ------
    InputError
        If there is no such dataset, its data is missing or damaged, or as `users_of`.
    """
    dataset = _source(name).load(root)
    return replace(dataset, users=users_of(name, root)) if with_users else dataset


def users_of(name: str, root: Path | None = None) -> Tensor:
    """Return who holds each training example of a dataset without loading it; int64, shape (examples,).

    Raises
    ------
    InputError
        If there is no such dataset, or if it does not say who holds which example.
    """
    users = _source(name).users
    if users is None:
        telling = ", ".join(other for other, source in DATASETS.items() if source.users)
        raise InputError(
            f"dataset '{name}' does not say who holds which example, as partition 'natural' needs: "
            f"choose another partition, or {telling}"
        )
    return users(root)


def classes_of(name: str, root: Path | None = None) -> int:
    """Return a dataset's number of classes without loading or downloading it.

    Memory depends on the data through this number alone. Parameters and errors as `load_dataset`.
    """
    return _source(name).classes(root)


def shape_of(name: str) -> tuple[int, ...]:
    """Return the shape of one example of a dataset; `InputError` if there is no such dataset."""
    return _source(name).shape


def takes_folder(name: str) -> bool:
    """Return whether a dataset lies in a folder of the user's; `InputError` if there is no such dataset."""
    return _source(name).in_folder


def _source(name: str) -> Source:
    if name not in DATASETS:
        unknown("dataset", name, DATASETS)
    return DATASETS[name]
