"""FedRolex: every device trains a window of each layer's channels, which rolls by one channel a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from profl.baselines.width import SubnetworkOptions, refuse_heads, subnetwork_tasks
from profl.bench.method import LocalContext, Method, Task
from profl.bench.models import ModelSpec


class FedRolex(Method):
    """Alam, Liu, Yan and Zhang: *FedRolex*, NeurIPS 2022, and their repository.

    A device trains the networks of HeteroFL, by the same local training [code], but other channels: of a layer with n
    channels those that stand first once all are rolled by the number of rounds so far. Of 64 channels at rate 1/16,
    round 1 trains 0 to 3, round 2 trains 63, 0, 1 and 2 [code]. In n rounds each has been trained equally often, and
    devices of every rate have had a part in the whole model [paper]. The server takes each element's plain mean over
    the devices that hold it; of the last layer a device sends only the rows of the classes it has examples of [code].
    At rate 1 this is HeteroFL.

    BatchNorm is *static*, as in HeteroFL: no running statistics are kept or sent.

    The full model is tested, though no device may hold it: the window has passed over all of it.
    """

    kind = "width"
    shrinks = "channels, a window that rolls"
    source = "Alam et al., NeurIPS 2022 (arXiv 2212.01548); AIoT-MLSys-Lab/FedRolex"
    keeps_batchnorm_statistics = False

    deviations = (
        "The networks have BatchNorm behind their convolutions; the published ResNets have it in front.",
        "BatchNorm and classifier count all devices alike; in the published server an element's weight is how often it "
        "was trained, which is the same for all devices but that it grows from one to the next.",
        "A device is of the widest rate that fits its memory; published are rates drawn or dealt.",
    )

    Options = SubnetworkOptions

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        refuse_heads(model, "fedrolex")
        self._tasks = subnetwork_tasks(model, options)

    def all_tasks(self) -> Sequence[Task]:
        return self.tasks()

    def tasks(self) -> Sequence[Task]:
        return [replace(task, channels=Window(self.finished_rounds)) for task in self._tasks]


@dataclass(frozen=True)
class Window:
    """Chooses the channels that stand first once all are rolled by ``turn``, the same on every device."""

    turn: int

    def __call__(self, part: int, whole: int, local: LocalContext) -> Tensor:
        return torch.arange(whole).roll(self.turn)[:part]
