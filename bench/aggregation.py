"""What devices send back, and the mean over the devices that own an element: the one aggregation of all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

State = dict[str, Tensor]
"""A model's tensors by name, as in ``nn.Module.state_dict``."""

Region = tuple[Tensor, ...]
"""A part of a tensor: for each dimension the int64 indices that it covers, each once."""


@dataclass(frozen=True)
class Update:
    """What a device sends back after local training. Made by a task, read by its method.

    Parameters
    ----------
    state
        Uploaded values by the name of the global tensor they belong to; as many dimensions as that has.
    examples
        Number of training examples behind the update.
    regions
        Which part of the global tensor a value covers, by name. A value without a region covers the leading elements
        of every dimension, so that one of the global shape covers all of it. Otherwise the region has one index tensor
        per dimension, int64, of shape (size of the value in that dimension,): element (i, j, ...) of the value belongs
        at (region[0][i], region[1][j], ...) of the global tensor. No index may occur twice in a dimension.
    masks
        Which elements of a value are sent at all, bool, of its shape, by name; of a value without a mask all are.
    sent
        What goes over the wire, by a name of its own, where it is less than ``state``: the server computes ``state``
        from it and from what it knows. None: ``state`` is sent.

    Examples
    --------
    Of a classifier for five classes, a device sends the rows of those it has seen, 1 and 4, and three of the columns:

    >>> rows, columns = torch.tensor([1, 4]), torch.arange(3)
    >>> update = Update({"weight": torch.ones(2, 3)}, examples=20, regions={"weight": (rows, columns)})
    >>> weight = torch.zeros(5, 4)
    >>> owner_mean({"weight": weight}, [update])
    >>> weight.int().tolist()
    [[0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    """

    state: State
    examples: int
    regions: Mapping[str, Region] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    sent: State | None = None

    @property
    def uploaded_bytes(self) -> int:
        """Bytes of the uploaded values; region indices and masks follow from the task and are not sent."""
        values = self.state if self.sent is None else self.sent
        return sum(value.element_size() * self._sent(name, value) for name, value in values.items())

    def _sent(self, name: str, value: Tensor) -> int:
        return int(self.masks[name].sum()) if name in self.masks else value.numel()


def owner_mean(global_state: Mapping[str, Tensor], updates: Sequence[Update], by_examples: bool = False) -> None:
    """Replace each element of the global tensors, in place, by the mean over the updates that hold it.

    Elements that no update holds keep their value. If every update holds everything this is FedAvg with equal
    weights, as in ProFL's published code; HeteroFL and DepthFL average the same way over their owners. Sums run in
    float64 in the order of ``updates``. Integer tensors (BatchNorm's step counter) are averaged and truncated.

    Parameters
    ----------
    global_state
        Server tensors by name; changed in place.
    updates
        Uploaded parts; a tensor may be smaller than the global one (see ``Update.regions``).
    by_examples
        Weigh every update by its number of examples, at least 1, instead of counting all alike.

    Raises
    ------
    ValueError
        If an update holds what the server has no tensor for: it would be lost without a word.
    """
    for strange in (name for update in updates for name in update.state if name not in global_state):
        raise ValueError(f"an update holds '{strange}', and the global state no tensor of that name")
    for name, value in global_state.items():
        owners = [update for update in updates if name in update.state]
        if not owners:
            continue
        weights = [update.examples if by_examples else 1 for update in owners]
        mean = _mean_of_wholes if all(_holds_all(update, name, value) for update in owners) else _mean_of_parts
        value.copy_(mean(name, value, owners, weights))


def _holds_all(update: Update, name: str, value: Tensor) -> bool:
    return update.state[name].shape == value.shape and name not in update.regions and name not in update.masks


def _mean_of_wholes(name: str, value: Tensor, updates: Sequence[Update], weights: Sequence[int]) -> Tensor:
    """Return what `_mean_of_parts` does where every update holds every element, to the bit, but sooner."""
    total = torch.zeros(value.shape, dtype=torch.float64)
    for update, weight in zip(updates, weights, strict=True):
        uploaded = update.state[name]
        total += uploaded if weight == 1 else uploaded.double().mul_(weight)
    count = sum(weights)
    return total.div_(max(count, 1)).to(value.dtype) if count > 0 else value


def _mean_of_parts(name: str, value: Tensor, updates: Sequence[Update], weights: Sequence[int]) -> Tensor:
    total = torch.zeros(value.shape, dtype=torch.float64)
    count = torch.zeros(value.shape, dtype=torch.float64)
    for update, weight in zip(updates, weights, strict=True):
        uploaded = update.state[name]
        region = _region(uploaded, update.regions.get(name))
        sent = update.masks.get(name)
        total[region] += (uploaded if sent is None else uploaded.where(sent, 0)).double() * weight
        count[region] += weight if sent is None else sent * weight
    mean = (total / count.clamp(min=1)).to(value.dtype)
    return torch.where(count > 0, mean, value)


def leading(global_tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the view of ``global_tensor`` that holds the first ``shape`` elements of its dimensions."""
    return global_tensor[tuple(slice(size) for size in shape)]


def taken(global_tensor: Tensor, region: Region) -> Tensor:
    """Return a copy of the elements of ``global_tensor`` in a region."""
    return global_tensor[_open(region)].clone()


def _region(uploaded: Tensor, region: Region | None) -> tuple[Tensor | slice, ...]:
    return tuple(slice(size) for size in uploaded.shape) if region is None else _open(region)


def _open(region: Region) -> tuple[Tensor, ...]:
    """Shape the indices of each dimension so that together they index every combination."""
    dimensions = len(region)
    return tuple(
        index.reshape([-1 if position == dimension else 1 for position in range(dimensions)])
        for dimension, index in enumerate(region)
    )
