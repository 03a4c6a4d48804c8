"""What devices send back, and the mean over the devices that own an element: the one aggregation of all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

State = dict[str, Tensor]
"""A model's tensors by name, as in ``nn.Module.state_dict``."""


@dataclass(frozen=True)
class Update:
    """What a device sends back after local training. Made by a task, read by its method.

    Parameters
    ----------
    state
        Uploaded values by the name of the global tensor they belong to.
    regions
        For a tensor that covers only part of the global one: one index tensor (int64) per dimension. A tensor
        without a region covers the leading elements of every dimension.
    examples
        Number of training examples behind the update.
    """

    state: State
    examples: int
    regions: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)

    @property
    def uploaded_bytes(self) -> int:
        """Bytes of the uploaded values; region indices follow from the task and are not sent."""
        return sum(value.nbytes for value in self.state.values())


def owner_mean(global_state: Mapping[str, Tensor], updates: Sequence[Update]) -> None:
    """Replace each element of the global tensors, in place, by the plain mean over the updates that hold it.

    Elements that no update holds keep their value. If every update holds everything this is FedAvg with equal
    weights, as in ProFL's published code; HeteroFL and DepthFL average the same way over their owners. Sums run in
    float64 in the order of ``updates``. Integer tensors (BatchNorm's step counter) are averaged and truncated.

    Parameters
    ----------
    global_state
        Server tensors by name; changed in place.
    updates
        Uploaded parts; a tensor may be smaller than the global one (see ``Update.regions``).
    """
    for name, value in global_state.items():
        owners = [update for update in updates if name in update.state]
        if not owners:
            continue
        total = torch.zeros(value.shape, dtype=torch.float64)
        count = torch.zeros(value.shape, dtype=torch.float64)
        for update in owners:
            held = update.state[name]
            region = _region(held, update.regions.get(name))
            total[region] += held
            count[region] += 1
        mean = (total / count.clamp(min=1)).to(value.dtype)
        value.copy_(torch.where(count > 0, mean, value))


def _region(held: Tensor, indices: tuple[Tensor, ...] | None) -> tuple[Tensor | slice, ...]:
    if indices is None:
        return tuple(slice(size) for size in held.shape)
    dimensions = len(indices)
    return tuple(
        index.reshape([-1 if position == dimension else 1 for position in range(dimensions)])
        for dimension, index in enumerate(indices)
    )
