"""What devices have trained so far, and which network may therefore stand for what was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from profl.bench.aggregation import Update
from profl.bench.method import TestedNetwork

Shape = tuple[int, ...]


class TrainedParameters:
    """Of every parameter of the global model, the shapes in which some device has trained it.

    A device that trains a narrow network trains the leading elements of a parameter; its module says how many. Whether
    the elements lay elsewhere (`Update.regions`) is not followed: a method that trains moving regions offers one
    network to test, the whole.
    """

    def __init__(self) -> None:
        self._shapes: dict[str, set[Shape]] = {}

    def observe(self, module: nn.Module, update: Update) -> None:
        """Take note of what a device trained in ``module`` and uploaded."""
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and name in update.state:
                self._shapes.setdefault(name, set()).add(tuple(parameter.shape))

    def cover(self, network: nn.Module) -> bool:
        """Say whether every parameter of a network was trained, in its shape or a larger one."""
        return all(
            any(all(had >= has for had, has in zip(shape, value.shape, strict=True)) for shape in self._of(name))
            for name, value in network.named_parameters()
        )

    def _of(self, name: str) -> set[Shape]:
        return self._shapes.get(name, set())

    def choose(self, networks: Sequence[TestedNetwork]) -> TestedNetwork:
        """Return the first network of which no part is untrained; the first of all if there is none."""
        for network in networks:
            with torch.device("meta"):
                module = network.build()
            if self.cover(module):
                return network
        return networks[0]

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain containers."""
        return {name: sorted(map(list, shapes)) for name, shapes in self._shapes.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._shapes = {name: {tuple(shape) for shape in shapes} for name, shapes in state.items()}
