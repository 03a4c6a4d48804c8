"""Federated Dropout: every device trains channels of each layer that are drawn anew for it in every round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from profl.baselines.width import SubnetworkOptions, refuse_heads, subnetwork_tasks
from profl.bench.method import LocalContext, Method, Task
from profl.bench.models import ModelSpec
from profl.bench.randomness import torch_generator


class FedDropout(Method):
    """Caldas, Konečný, McMahan and Talwalkar: *Expanding the Reach of Federated Learning*, arXiv 1812.07210 (2018).

    A device trains a network with a fixed share of every layer's channels, drawn uniformly for this device and round;
    the server maps it back [paper, of which we know the abstract and what others say; we know of no code by its
    authors]. The ends of a residual connection must agree: here one set is drawn for each number of channels, so that
    all layers of one width train the same ones [default]. Published is one rate for all, here a device is of the
    widest that fits.

    Local training and aggregation are those by which FedRolex's repository compares itself with this method, HeteroFL's
    own: static BatchNorm, a cross-entropy of the owned classes, each element's plain mean over the devices that hold
    it, and of the last layer only the rows of the classes that a device has examples of [code]. The three methods then
    differ in nothing but which channels a device trains; at rate 1 they are one.

    The full model is tested, though no device may hold it: the draws come by all of it.
    """

    kind = "width"
    shrinks = "channels, drawn at random"
    source = "Caldas et al., 2018 (arXiv 1812.07210); compared in AIoT-MLSys-Lab/FedRolex"
    keeps_batchnorm_statistics = False

    deviations = (
        "All layers with the same number of channels train the same ones; published are draws for every layer.",
        "A device is of the widest rate that fits its memory; published is one rate for all.",
        "There is no compression of what is sent, which is published beside the method.",
    )

    Options = SubnetworkOptions

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        refuse_heads(model, "feddropout")
        self._tasks = [replace(task, channels=drawn) for task in subnetwork_tasks(model, options)]

    def all_tasks(self) -> Sequence[Task]:
        return self._tasks

    def tasks(self) -> Sequence[Task]:
        return self._tasks


def drawn(part: int, whole: int, local: LocalContext) -> Tensor:
    """Draw ``part`` of ``whole`` channels, in order: the same whenever a device asks within a round."""
    # By the seed of the device's generator and not from it, which moves on as the device trains.
    generator = torch_generator(local.generator.initial_seed(), "channels", whole)
    return torch.randperm(whole, generator=generator)[:part].sort().values
