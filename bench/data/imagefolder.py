"""Any folder of pictures sorted into ``train/<class>`` and ``test/<class>``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from profl.bench.data.dataset import Dataset, normalised
from profl.bench.data.picture import read_picture
from profl.bench.data.users import users_of_pictures
from profl.bench.errors import InputError, why_unreadable

if TYPE_CHECKING:
    from torch import Tensor

REMEDY = "put the pictures into train/<class>/ and test/<class>/, with the same classes in both"

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""How the names of pictures end, in upper or lower case; other files are passed over."""


def classes(root: Path) -> list[str]:
    """Return the names of the classes, in order, without opening a picture.

    Raises
    ------
    InputError
        If a split is missing or has no classes, or if the splits have different classes.
    """
    train, test = _subfolders(root / "train"), _subfolders(root / "test")
    if train != test:
        odd = ", ".join(sorted(set(train) ^ set(test)))
        raise InputError(f"{root}: only one of train and test has the class {odd}; {REMEDY}")
    return train


def load(root: Path) -> Dataset:
    """Load all pictures into memory, 12 kB each once normalised.

    Pictures are converted to RGB (grey is repeated, transparency dropped) and resized to 32x32 bilinearly;
    those that are not square are squeezed, not cropped.

    Raises
    ------
    InputError
        As `classes`, or if a class is empty, a picture cannot be read, or a folder is there twice by a symbolic link.
    """
    train, test = _listed(root)
    (train_pictures, train_targets), (test_pictures, test_targets) = _split(train), _split(test)
    train_inputs, test_inputs = normalised(train_pictures, test_pictures)
    return Dataset("imagefolder", train_inputs, train_targets, test_inputs, test_targets, len(train), augment=True)


def users(root: Path) -> Tensor:
    """Return who holds each training picture, as numbers in the order of the users' names, without opening a picture.

    Returns
    -------
    Tensor
        int64, shape (examples,).

    Raises
    ------
    InputError
        As `load` but for the pictures' content, or if it is not clear who holds a picture (`users_of_pictures`).
    """
    import numpy as np
    import torch

    train, _ = _listed(root)
    paths = [path.relative_to(root / "train") for pictures in train for path in pictures]
    names = users_of_pictures(root, [PurePosixPath(path) for path in paths])
    return torch.from_numpy(np.unique(names, return_inverse=True)[1])


def _subfolders(split: Path) -> list[str]:
    if not split.is_dir():
        raise InputError(f"{split} is not a folder; {REMEDY}")
    names = sorted(entry.name for entry in _entries(split) if entry.is_dir())
    if not names:
        raise InputError(f"{split} has no class folders; {REMEDY}")
    return names


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({why_unreadable(error)}): make it readable, or remove it"
        ) from error


def _listed(root: Path) -> list[list[list[Path]]]:
    """Return the pictures of every class, of ``train`` and of ``test``; those of a class by folder, then by name."""
    names = classes(root)
    # What a link may not lead to: another class would be read as this one, and a folder above would never end.
    read = {folder: folder for folder in (root.resolve(), *root.resolve().parents)}
    splits = [root / "train", root / "test"]
    for split in splits:
        _enter(split, read)
    return [[_pictures(split / name, read) for name in names] for split in splits]


def _pictures(of_class: Path, read: dict[Path, Path]) -> list[Path]:
    pictures = sorted(_below(of_class, read), key=lambda path: (str(path.parent), path.name))
    if not pictures:
        raise InputError(f"{of_class} has no pictures ({', '.join(EXTENSIONS)}): add some, or remove the class")
    return pictures


def _below(folder: Path, read: dict[Path, Path]) -> list[Path]:
    _enter(folder, read)
    found = []
    for entry in _entries(folder):
        if entry.is_dir():
            found += _below(entry, read)
        elif entry.name.lower().endswith(EXTENSIONS):
            if not entry.is_file():  # whoever opens a pipe waits for a writer
                raise InputError(f"{entry} is no file (a pipe, a device or a broken link): remove it")
            found.append(entry)
    return found


def _enter(folder: Path, read: dict[Path, Path]) -> None:
    """Note that a folder is read, by where it really lies; refuse one that has been."""
    real = folder.resolve()
    if real in read:
        raise InputError(f"{folder} and {read[real]} are one folder, by a symbolic link: remove the link")
    read[real] = folder


def _split(of_classes: Sequence[Sequence[Path]]) -> tuple[Tensor, Tensor]:
    import torch

    pictures = torch.stack([read_picture(path) for pictures in of_classes for path in pictures])
    return pictures, torch.arange(len(of_classes)).repeat_interleave(torch.tensor([*map(len, of_classes)]))
