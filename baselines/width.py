"""Width slicing: the tasks of training a part of every layer's channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor, nn

from profl.bench.aggregation import Region, Update, leading, taken
from profl.bench.errors import InputError
from profl.bench.losses import owned_cross_entropy
from profl.bench.method import LocalContext, Task
from profl.bench.models import ModelSpec, StagedModel
from profl.bench.models.loading import copy_into
from profl.bench.models.normalisation import normalise
from profl.bench.models.vit import Attention

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


Channels = Callable[[int, int, LocalContext], Tensor]
"""Chooses which indices of a dimension a device trains: how many, of how many, the device -> int64, each once.

Tensors are sliced one by one, so that the choice must depend on nothing else: then layers, norms and the ends of a
residual connection, which have the same number of channels, agree. A value that can be pickled and compared, as it is
part of a task.
"""


def load_leading(module: nn.Module, global_state: Mapping[str, Tensor]) -> None:
    """Copy the leading elements of the global tensors into the tensors of a narrower module, in place."""
    copy_into(module, {name: leading(global_state[name], value.shape) for name, value in module.state_dict().items()})


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
class SubnetworkOptions:
    """Options of HeteroFL, and of those that train its narrow networks but choose other channels.

    Parameters
    ----------
    rates
        Shares of the channels that are offered, in any order [paper].
    scaler
        Divide the output of every convolution, embedding and linear layer but the classifier by the rate, in training
        only (HeteroFL's Scaler). On by default because it is part of the published methods [code]. In networks with
        BatchNorm behind every convolution the factor is normalised away: it only makes BatchNorm's epsilon weigh less.
    max_gradient_norm
        Clip the gradients of every step to this 2-norm, as the authors' code does to 1 [code]; 0 turns it off.
    """

    rates: tuple[str | float, ...] = RATES
    scaler: bool = True
    max_gradient_norm: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_gradient_norm < math.inf:
            raise InputError(f"max_gradient_norm must be at least 0, not {self.max_gradient_norm}: 0 turns it off")


@dataclass(frozen=True)
class SubnetworkTask(Task):
    """Train a part of the channels with the Scaler, static BatchNorm and the cross-entropy of the owned classes.

    Parameters
    ----------
    model
        The network at this device's rate.
    scaler
        Whether the outputs of all layers but the classifier are divided by the rate.
    max_gradient_norm
        As in the contract.
    channels
        Which channels of the full model these are; None is the leading ones.
    """

    model: ModelSpec
    scaler: bool
    max_gradient_norm: float | None = None
    channels: Channels | None = None

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
        state = module.state_dict()
        regions = self._regions(state, global_state, local)
        for name, value in state.items():
            whole = global_state[name]
            value.copy_(taken(whole, regions[name]) if name in regions else leading(whole, value.shape))
        module.get_buffer("owned_classes").copy_(local.classes)

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return owned_cross_entropy(module(inputs), targets, module.get_buffer("owned_classes"))

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        """Return the parameters; of the classifier the rows of the owned classes only."""
        assert isinstance(module, StagedModel)  # as built
        state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        regions = self._regions(state, global_state, local)
        rows = local.classes.nonzero().flatten()
        for name in [name for name in state if name.rpartition(".")[0] == module.classifier_name]:
            everything = tuple(map(torch.arange, state[name].shape))
            regions[name] = (rows, *regions.get(name, everything)[1:])
            state[name] = state[name][rows]
        return Update(state, local.examples, regions)

    def _regions(
        self, state: Mapping[str, Tensor], global_state: Mapping[str, Tensor], local: LocalContext
    ) -> dict[str, Region]:
        """Return which part of a global tensor the device holds, where that is not the leading one.

        Dimensions that are whole, such as those of kernels, colours and classes, keep their order.
        """
        if self.channels is None:
            return {}
        return {
            name: tuple(
                self.channels(part, whole, local) if part < whole else torch.arange(whole)
                for part, whole in zip(value.shape, global_state[name].shape, strict=True)
            )
            for name, value in state.items()
            if value.shape != global_state[name].shape
        }


def subnetwork_tasks(model: ModelSpec, options: SubnetworkOptions) -> list[SubnetworkTask]:
    """Return a task for each rate, widest first.

    Raises
    ------
    InputError
        If the rates cannot be used, or the model has no layer that gives the logits.
    """
    _ = model.skeleton().classifier_name  # a model without one is refused here, not in a worker
    return [
        SubnetworkTask(model.at_rate(rate), options.scaler, options.max_gradient_norm or None)
        for rate in parse_rates(options.rates)
    ]


def refuse_heads(model: ModelSpec, method: str) -> None:
    """Refuse a model whose channels belong to the heads of attention: other channels than the leading ones mix heads.

    Raises
    ------
    InputError
        If it has attention.
    """
    if any(isinstance(part, Attention | nn.MultiheadAttention) for part in model.skeleton().modules()):
        raise InputError(
            f"{method} cannot train {model.name}, whose channels belong to heads of attention, which it would mix: "
            "choose heterofl, which leaves out whole heads"
        )


def _divide_in_training(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, rate: float) -> Tensor:
    # In place: the layer's backward does not read its output, so the Scaler needs no second activation.
    return output.div_(rate) if module.training else output
