"""HeteroFL: every device trains as many leading channels of every layer as it can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from profl.baselines.width import SubnetworkOptions, subnetwork_tasks
from profl.bench.method import Method, Task, TestedNetwork
from profl.bench.models import ModelSpec


class HeteroFL(Method):
    """Diao, Ding and Tarokh: *HeteroFL*, ICLR 2021, and their repository of that name.

    A narrow model is the first ``ceil(rate * channels)`` channels of every layer of the wide one. The server
    takes each element's plain mean over the devices that hold it; an element that nobody holds keeps its
    value. Of the last layer a device sends only the rows of the classes it has examples of. At rate 1, and
    with examples of every class, all of this is federated averaging.

    BatchNorm is *static*: training normalises by the batch and keeps no running statistics, and none are sent.

    The network that is tested is the widest that any device has trained so far (the harness's rule for all).

    The networks are the bench's own; the paper's are pre-activation ResNets and count other parameters.
    """

    kind = "width"
    shrinks = "channels, the leading ones"
    source = (
        "Diao, Ding and Tarokh, ICLR 2021 (arXiv 2010.01264);"
        " diaoenmao/HeteroFL-Computation-and-Communication-Efficient-Federated-Learning"
    )
    keeps_batchnorm_statistics = False

    deviations = (
        "The networks have BatchNorm behind their convolutions; the published ResNets have it in front.",
        "BatchNorm statistics are re-estimated on 512 examples, as of every method; published is all training data.",
        "A device is of the widest rate that fits its memory; published are rates drawn or dealt.",
        "Of a Transformer whole heads are left out; published are as many heads, each narrower.",
    )

    Options = SubnetworkOptions

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._tasks = subnetwork_tasks(model, options)

    def all_tasks(self) -> Sequence[Task]:
        return self._tasks

    def tasks(self) -> Sequence[Task]:
        return self._tasks

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [TestedNetwork(f"width {task.model.rate}", task.model.build) for task in self._tasks]
