"""FedRolex: every device trains a window of each layer's channels, which rolls by one channel a round."""

from dataclasses import dataclass
from fractions import Fraction

import torch

from profl import Method, ModelSpec, Task, Update
from profl.bench.losses import owned_cross_entropy


def windows(tensor, whole, turn):
    """Which indices of every dimension of a global tensor a device's smaller one covers; whole ones do not roll."""
    return tuple(
        torch.arange(size).roll(turn if part < size else 0)[:part]
        for part, size in zip(tensor.shape, whole.shape, strict=True)
    )


@dataclass(frozen=True)
class WindowTask(Task):
    model: ModelSpec
    turn: int = 0

    @property
    def key(self):
        return f"window {self.model.rate}"  # without the turn, which changes no tensor's size

    def build(self):
        module = self.model.build()
        module.register_buffer("owned", torch.ones(self.model.classes, dtype=torch.bool), persistent=False)
        return module

    def load(self, module, global_state, local):
        module.owned.copy_(local.classes)
        for name, value in module.state_dict().items():
            region = windows(value, global_state[name], self.turn)
            value.copy_(global_state[name][torch.meshgrid(*region, indexing="ij")] if region else global_state[name])

    def loss(self, module, inputs, targets):
        return owned_cross_entropy(module(inputs), targets, module.owned)

    def update(self, module, global_state, local):
        state = {name: value.clone() for name, value in module.state_dict().items()}
        regions = {name: windows(value, global_state[name], self.turn) for name, value in state.items()}
        return Update(state, local.examples, regions)


class FedRolex(Method):
    deviations = ("The server counts all devices alike; published are weights for BatchNorm and classifier.",)

    def all_tasks(self):
        rates = [Fraction(1, part) for part in (1, 2, 4, 8, 16)]
        return [WindowTask(self.model.at_rate(rate), turn=self.finished_rounds) for rate in rates]

    def tasks(self):
        return self.all_tasks()

    def diagnostics(self):
        return {"turn": self.finished_rounds}
