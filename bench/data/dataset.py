"""What a dataset is: tensors, of pictures normalised and 3x32x32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 32
"""Height and width in pixels of every picture."""

PICTURE_SHAPE = (3, SIDE, SIDE)
"""Shape of every picture (channels, height, width)."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset held in memory as tensors.

    All pictures are 3x32x32, small ones resized and grey ones repeated to three channels: a model's memory
    footprint then depends on the dataset through nothing but the number of classes, and carries over.

    Parameters
    ----------
    name
        As registered in ``DATASETS``.
    train_inputs, test_inputs
        Pictures, normalised per channel with the training split's mean and standard deviation, float32, shape
        (examples, 3, 32, 32); or text, the codes of its characters, int64, shape (examples, characters).
    train_targets, test_targets
        Classes in [0, classes); int64, shape (examples,).
    classes
        Number of classes.
    augment
        Whether training pictures are to be cropped and flipped at random. False for digits: a mirrored 2 is
        no 2.
    users
        Who holds each training example, as numbers from 0; int64, shape (examples,). None unless the dataset says it
        and was asked.
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int
    augment: bool
    users: Tensor | None = None


def from_grey(pictures: Tensor) -> Tensor:
    """Return grey pictures resized to 32x32 bilinearly, with the grey in three channels.

    Parameters
    ----------
    pictures
        Of 0 to 255; float32, shape (examples, height, width).

    Returns
    -------
    Tensor
        uint8, shape (examples, 3, 32, 32).
    """
    import torch
    from torch.nn import functional

    resized = functional.interpolate(pictures[:, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return resized.round().to(torch.uint8).repeat(1, 3, 1, 1)


def normalised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Return pictures with zero mean and unit variance per channel, by the statistics of ``train``.

    Parameters
    ----------
    train, test
        Pictures; uint8, shape (examples, 3, height, width).

    Returns
    -------
    tuple of Tensor
        Both, float32.
    """
    mean, deviation = _channel_statistics(train)
    return _scaled(train, mean, deviation), _scaled(test, mean, deviation)


def _channel_statistics(pictures: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    # Counting the 256 levels is exact. A floating-point sum over millions of pixels could differ in its last
    # bits with the number of threads, and every result after it too.
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in pictures.unbind(1)])
    shares = counts.double() / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    # A channel that never varies becomes zero instead of 0 / 0.
    deviation = variance.sqrt().where(variance > 0, 1)
    return mean.float().view(3, 1, 1), deviation.float().view(3, 1, 1)


def _scaled(pictures: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return pictures.float().sub_(mean).div_(deviation)  # in place: CIFAR takes 600 MB
