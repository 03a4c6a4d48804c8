"""Losses that methods share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def owned_cross_entropy(logits: Tensor, targets: Tensor, owned: Tensor) -> Tensor:
    """Return the mean cross-entropy in which only the classes that a device has examples of are learned.

    As in HeteroFL's published code the logits of the other classes become 0, not -inf: they stay in the softmax as
    constants and get no gradient. If every class is owned, this is the plain cross-entropy, to the bit.

    Parameters
    ----------
    logits
        Shape (batch, classes).
    targets
        Owned classes, int64, shape (batch,).
    owned
        Bool, shape (classes,), on the device of the logits: ``LocalContext.classes``.
    """
    logits = logits.masked_fill(~owned, 0)  # under the same name, so that nothing holds the others any longer
    return functional.cross_entropy(logits, targets)
