"""A method of one's own: every device trains as many of the network's last stages as it can hold."""

from dataclasses import dataclass

from torch import nn

from profl import Method, ModelSpec, Task


@dataclass(frozen=True)
class LastStages(Task):
    model: ModelSpec
    count: int

    @property
    def key(self) -> str:
        return f"last {self.count}"

    def build(self) -> nn.Module:
        module = self.model.build()
        module.stem.requires_grad_(False)
        for stage in module.stages[: -self.count]:
            stage.requires_grad_(False)
        return module


class TopHeavy(Method):
    def all_tasks(self):
        return [LastStages(self.model, count) for count in (3, 2, 1)]

    def tasks(self):
        return self.all_tasks()
