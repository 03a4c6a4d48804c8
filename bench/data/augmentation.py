"""Random crops and flips of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def augment(batch: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Shift every picture by up to ``padding`` pixels and mirror half of them.

    The usual CIFAR augmentation (pad, crop at random, flip left to right with probability 1/2), for the whole
    batch at once. It runs on normalised pictures, so the border is the mean colour and not black.

    Parameters
    ----------
    batch
        Pictures, shape (batch, channels, height, width). Not modified.
    generator
        A CPU generator, whatever the batch's device: the draws are then the same on every machine.
    padding
        Width of the border in pixels.

    Returns
    -------
    Tensor
        Like ``batch``.
    """
    import torch
    from torch.nn import functional

    examples, channels, height, width = batch.shape
    top = torch.randint(2 * padding + 1, (examples, 1), generator=generator)
    left = torch.randint(2 * padding + 1, (examples, 1), generator=generator)
    mirrored = torch.rand((examples, 1), generator=generator) < 0.5

    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = functional.pad(batch, (padding,) * 4)
    return padded[
        torch.arange(examples, device=batch.device)[:, None, None, None],
        torch.arange(channels, device=batch.device)[:, None, None],
        rows.to(batch.device)[:, None, :, None],
        columns.to(batch.device)[:, None, None, :],
    ]
