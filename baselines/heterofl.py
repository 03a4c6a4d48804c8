"""HeteroFL: every device trains as many leading channels of every layer as it can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from profl.baselines.width import RATES, SubnetworkTask, parse_rates
from profl.bench.errors import InputError
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
    source = "Diao, Ding and Tarokh, ICLR 2021 (arXiv 2010.01264); diaoenmao/HeteroFL-Computation-and-..."
    keeps_batchnorm_statistics = False

    deviations = (
        "The networks have BatchNorm behind their convolutions; the published ResNets have it in front.",
        "BatchNorm statistics are re-estimated on 512 examples, as of every method; published is all training data.",
        "A device is of the widest rate that fits its memory; published are rates drawn or dealt.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of HeteroFL.

        Parameters
        ----------
        rates
            Shares of the channels that are offered, in any order. Default: the paper's.
        scaler
            Divide the output of every convolution by the rate, in training only (the paper's Scaler). On by
            default because it is part of the published method. In networks with BatchNorm behind every
            convolution, as here, the factor is normalised away: it only makes BatchNorm's epsilon weigh less.
        max_gradient_norm
            Clip the gradients of every step to this 2-norm, as the authors' code does to 1; 0 turns it off.
        """

        rates: tuple[str | float, ...] = RATES
        scaler: bool = True
        max_gradient_norm: float = 1.0

        def __post_init__(self) -> None:
            if not 0 <= self.max_gradient_norm < math.inf:
                raise InputError(f"max_gradient_norm must be at least 0, not {self.max_gradient_norm}: 0 turns it off")

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        _ = model.skeleton().classifier_name  # a model without one is refused here, not in a worker
        self._tasks = [
            SubnetworkTask(model.at_rate(rate), options.scaler, options.max_gradient_norm or None)
            for rate in parse_rates(options.rates)
        ]

    def all_tasks(self) -> Sequence[Task]:
        return self._tasks

    def tasks(self) -> Sequence[Task]:
        return self._tasks

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [TestedNetwork(f"width {task.model.rate}", task.model.build) for task in self._tasks]
