"""Any folder of pictures sorted into ``train/<class>`` and ``test/<class>``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from profl.bench.data.dataset import SIDE, Dataset, normalised
from profl.bench.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

REMEDY = "put the pictures into train/<class>/ and test/<class>/, with the same classes in both"


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
        As `classes`, or if a class is empty or a picture cannot be read.
    """
    names = classes(root)
    train_pictures, train_targets = _split(root / "train")
    test_pictures, test_targets = _split(root / "test")
    train_inputs, test_inputs = normalised(train_pictures, test_pictures)
    return Dataset("imagefolder", train_inputs, train_targets, test_inputs, test_targets, len(names), augment=True)


def _subfolders(split: Path) -> list[str]:
    if not split.is_dir():
        raise InputError(f"{split} is not a folder; {REMEDY}")
    names = sorted(folder.name for folder in split.iterdir() if folder.is_dir())
    if not names:
        raise InputError(f"{split} has no class folders; {REMEDY}")
    return names


def _split(split: Path) -> tuple[Tensor, Tensor]:
    import torch
    from torchvision.datasets import ImageFolder

    try:
        folder = ImageFolder(str(split))
    except FileNotFoundError as error:  # a class without pictures; the message names it and the formats
        raise InputError(f"{split}: {error}") from error
    pictures = torch.stack([_picture(path) for path, _ in folder.samples])
    return pictures, torch.tensor(folder.targets)


def _picture(path: str) -> Tensor:
    """Return a picture; uint8, shape (3, 32, 32)."""
    from PIL import Image
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms.functional import pil_to_tensor

    try:
        picture = pil_loader(path)
    except Exception as error:  # Pillow has no common one: OSError, SyntaxError, ... by format
        raise InputError(f"{path} is not a readable picture ({error}); replace or remove it") from error
    return pil_to_tensor(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
