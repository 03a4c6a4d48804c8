"""HeteroFL: every device trains as many leading channels of every layer as it can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from profl.baselines.width import RATES, load_leading, parse_rates
from profl.bench.aggregation import Update
from profl.bench.errors import InputError
from profl.bench.losses import owned_cross_entropy
from profl.bench.method import LocalContext, Method, Task, TestedNetwork
from profl.bench.models import ModelSpec, StagedModel
from profl.bench.models.normalisation import normalise


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

    keeps_batchnorm_statistics = False

    deviations = (
        "The networks have BatchNorm behind their convolutions; the published ResNets have it in front.",
        "BatchNorm statistics are re-estimated on 512 examples, as of every method; published is all training data.",
        "A device is of the widest rate that fits its memory; published are rates drawn or dealt.",
        "Of a Transformer whole heads are left out; published are as many heads, each narrower.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of HeteroFL.

        Parameters
        ----------
        rates
            Shares of the channels that are offered, in any order. Default: the paper's.
        scaler
            Divide the output of every convolution, embedding and linear layer but the classifier by the rate, in
            training only (the paper's Scaler). On by default because it is part of the published method. In networks
            with BatchNorm behind every convolution the factor is normalised away: it only makes BatchNorm's epsilon
            weigh less.
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


@dataclass(frozen=True)
class SubnetworkTask(Task):
    """Train the leading channels with the Scaler, static BatchNorm and the cross-entropy of the owned classes.

    Parameters
    ----------
    model
        The network at this device's rate.
    scaler
        Whether the outputs of all layers but the classifier are divided by the rate.
    max_gradient_norm
        As in the contract.
    """

    model: ModelSpec
    scaler: bool
    max_gradient_norm: float | None = None

    @property
    def key(self) -> str:
        return f"subnetwork {self.model.rate}" + (" scaled" if self._scaled else "")

    @property
    def _scaled(self) -> bool:
        return self.scaler and self.model.rate != 1

    def build(self) -> nn.Module:
        module = self.model.build()
        owned_classes = torch.ones(self.model.classes, dtype=torch.bool)
        module.register_buffer("owned_classes", owned_classes, persistent=False)
        normalise(module, "static")
        for name, part in module.named_modules():
            is_hidden = isinstance(part, nn.Conv2d | nn.Linear | nn.Embedding) and name != module.classifier_name
            if is_hidden and self._scaled:
                # A hook rather than a module around the layer: the tensors keep their names.
                part.register_forward_hook(partial(_divide_in_training, rate=float(self.model.rate)))
        return module

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        load_leading(module, global_state)
        module.get_buffer("owned_classes").copy_(local.classes)

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return owned_cross_entropy(module(inputs), targets, module.get_buffer("owned_classes"))

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        """Return the parameters; of the classifier the rows of the owned classes only."""
        assert isinstance(module, StagedModel)  # as built
        state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        rows = local.classes.nonzero().flatten()
        regions = {}
        for name in [name for name in state if name.rpartition(".")[0] == module.classifier_name]:
            columns = [torch.arange(size) for size in state[name].shape[1:]]
            state[name] = state[name][rows]
            regions[name] = (rows, *columns)
        return Update(state, local.examples, regions)


def _divide_in_training(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, rate: float) -> Tensor:
    # In place: the layer's backward does not read its output, so the Scaler needs no second activation.
    return output.div_(rate) if module.training else output
