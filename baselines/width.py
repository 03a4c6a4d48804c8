"""Width slicing: the tasks of training a part of every layer's channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from profl.bench.aggregation import Update, leading
from profl.bench.errors import InputError
from profl.bench.losses import owned_cross_entropy
from profl.bench.method import LocalContext, Task
from profl.bench.models import ModelSpec, StagedModel

RATES = ("1", "1/2", "1/4", "1/8", "1/16")
"""Shares of the channels at HeteroFL's five levels of complexity, a to e; widest first."""


def parse_rates(rates: Sequence[str | float]) -> list[Fraction]:
    """Return the rates as exact fractions, widest first; ``"1/3"``, ``"0.25"`` and ``0.25`` are understood.

    Raises
    ------
    InputError
        If there is none, if one is not a number in (0, 1], or if two are equal.
    """
    try:
        fractions = sorted((Fraction(str(rate)) for rate in rates), reverse=True)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"rates must be numbers such as 1/4 or 0.25: {error}") from error
    if not fractions or not all(0 < rate <= 1 for rate in fractions) or len(set(fractions)) < len(fractions):
        raise InputError(f"rates must be different numbers in (0, 1], not {', '.join(map(str, rates))}")
    return fractions


def load_leading(module: nn.Module, global_state: Mapping[str, Tensor]) -> None:
    """Copy the leading elements of the global tensors into the tensors of a narrower module, in place."""
    module.load_state_dict(
        {name: leading(global_state[name], value.shape) for name, value in module.state_dict().items()}
    )


@dataclass(frozen=True)
class WidthTask(Task):
    """Train a network of the model's architecture, the first ``ceil(rate * channels)`` of every layer.

    At rate 1 this is plain training of the full model.
    """

    model: ModelSpec

    @property
    def key(self) -> str:
        return f"width {self.model.rate}"

    def build(self) -> nn.Module:
        return self.model.build()

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        load_leading(module, global_state)


@dataclass(frozen=True)
class SubnetworkTask(Task):
    """Train the leading channels with the Scaler, static BatchNorm and the cross-entropy of the owned classes.

    Parameters
    ----------
    model
        The network at this device's rate.
    scaler
        Whether the outputs of convolutions are divided by the rate.
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
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                make_static(part)
            elif isinstance(part, nn.Conv2d) and self._scaled:
                # A hook rather than a module around the convolution: the tensors keep their names.
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


def make_static(batchnorm: _BatchNorm) -> None:
    """Normalise by the statistics of the batch alone, and keep no other, in training or evaluation."""
    batchnorm.track_running_stats = False
    batchnorm.running_mean = batchnorm.running_var = batchnorm.num_batches_tracked = None


def _divide_in_training(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, rate: float) -> Tensor:
    # In place: a convolution's backward does not read its output, so the Scaler needs no second activation.
    return output.div_(rate) if module.training else output
