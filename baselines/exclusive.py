"""Exclusive FedAvg: only the devices that can train the full model take part."""

from __future__ import annotations

from collections.abc import Sequence

from profl.bench.method import FullModel, Method, Task


class Exclusive(Method):
    """Federated averaging of the full model, the one task offered; what the other devices know is lost."""

    kind = "reference"
    shrinks = "nothing (weak devices are left out)"
    source = "FedAvg (McMahan et al., AISTATS 2017) where memory is a limit"
    deviations = ("Every device counts the same; FedAvg's published weights are by examples.",)

    def all_tasks(self) -> Sequence[Task]:
        return [FullModel(self.model)]

    def tasks(self) -> Sequence[Task]:
        return self.all_tasks()
