"""Exclusive FedAvg: only the devices that can train the full model take part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from profl.bench.method import FullModel, Method, Task, filled, initial_state
from profl.bench.models import ModelSpec


class Exclusive(Method):
    """Federated averaging of the full model, the one task offered; what the other devices know is lost."""

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self.global_state = initial_state(model, seed)

    def all_tasks(self) -> Sequence[Task]:
        return [FullModel(self.model)]

    def tasks(self) -> Sequence[Task]:
        return self.all_tasks()

    def global_model(self) -> nn.Module:
        return filled(self.model.build, self.global_state)
