"""Ideal FedAvg: every device trains the full model, memory ignored. The upper bound, not a rival."""

from __future__ import annotations

from collections.abc import Sequence

from profl.bench.method import FullModel, Method, Task


class FedAvg(Method):
    """Federated averaging (McMahan et al., AISTATS 2017) with equal weights, as if memory were no limit."""

    kind = "reference"
    shrinks = "nothing (memory is ignored)"
    source = "McMahan et al., AISTATS 2017 (arXiv 1602.05629)"
    ignores_memory = True

    deviations = ("Every device counts the same; published are weights by examples.",)

    def all_tasks(self) -> Sequence[Task]:
        return [FullModel(self.model)]

    def tasks(self) -> Sequence[Task]:
        return self.all_tasks()
