"""FIARSE: every device trains the weights of largest magnitude, wherever in the network they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from profl.baselines.width import parse_rates
from profl.bench.aggregation import Update
from profl.bench.method import LocalContext, Method, Task
from profl.bench.models import ModelSpec
from profl.bench.models.normalisation import normalise


class FIARSE(Method):
    """Wu et al.: *FIARSE*, NeurIPS 2024, and the repository of its first author.

    A device of size r trains, of all weights and biases of convolutions and linear layers together, the share r of
    largest magnitude; the others count as zero. The least magnitude among them is its threshold, which stays as it is
    in local training: a weight that falls below it counts as zero from then on. The gradient of a weight w that counts
    is multiplied by 1 + 2 t |w| / (|w| + t)^2, t the threshold, as the mask depends on the weight too [paper: a
    threshold-controlled biased gradient; code]. BatchNorm is trained whole, and is *static* [code]. A device sends what
    its mask held when it began, and the server takes each element's plain mean over the devices that hold it [code,
    where those hold an element that have changed it].

    **Such a mask saves no memory**: weights, gradients, momentum and activations stay as large as they are, and a
    masked copy of the weights comes on top. Here, where memory is measured, a device that can train a masked network
    can train the whole one, and does; with the default sizes the method then is federated averaging of those devices.
    To see it train masked networks, leave size 1 out of ``rates``. What it saves are uploads: only the values of the
    mask are counted, as it follows from the global weights; downloads are counted whole.

    The full model is tested.
    """

    kind = "width"
    shrinks = "weights that count, those of largest magnitude (memory does not shrink)"
    source = "Wu et al., NeurIPS 2024; HarliWu/FIARSE"
    keeps_batchnorm_statistics = False

    deviations = (
        "A device's size is the largest that fits its memory, and all take the same or more; published are four tiers.",
        "Momentum and weight decay are the recipe's; the published code has none.",
        "The full model is tested; published are means over the networks of all sizes.",
        "At random initial values the smallest sizes have no large weights in some layer, and do not learn alone.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of FIARSE.

        Parameters
        ----------
        rates
            Shares of the weights that are offered, in any order: the four sizes of the paper [paper; code].
        """

        rates: tuple[str | float, ...] = ("1", "1/4", "1/16", "1/64")

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._tasks = [LargestWeights(model, rate) for rate in parse_rates(options.rates)]

    def all_tasks(self) -> Sequence[Task]:
        return self._tasks

    def tasks(self) -> Sequence[Task]:
        return self._tasks


@dataclass(frozen=True)
class LargestWeights(Task):
    """Train the share ``rate`` of the weights, those of largest magnitude; at rate 1 this is plain training."""

    unsuited_techniques: ClassVar[Mapping[str, str]] = {
        "checkpoint": "would recompute stages with weights that are masked no more"
    }

    model: ModelSpec
    rate: Fraction

    @property
    def key(self) -> str:
        return f"weights {self.rate}"

    def build(self) -> nn.Module:
        module = self.model.build()
        normalise(module, "static")
        module.register_buffer("threshold", torch.zeros(()), persistent=False)
        return module

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        super().load(module, global_state, local)
        module.get_buffer("threshold").copy_(self._threshold(module, global_state))

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        if self.rate == 1:
            return super().loss(module, inputs, targets)
        weights, threshold = dict(module.named_parameters()), module.get_buffer("threshold")
        masked = {name: LargeOnes.apply(weights[name], threshold) for name in maskable(module)}
        return functional.cross_entropy(functional_call(module, masked, (inputs,)), targets)

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        """Return the parameters; of those that are masked the elements that the mask held at first."""
        update = super().update(module, global_state, local)
        if self.rate == 1:
            return update
        threshold = self._threshold(module, global_state)
        masks = {name: global_state[name].abs() >= threshold for name in maskable(module)}
        return Update(update.state, update.examples, masks=masks)

    def _threshold(self, module: nn.Module, global_state: Mapping[str, Tensor]) -> Tensor:
        """Return the least magnitude that counts, shape ()."""
        magnitudes = torch.cat([global_state[name].abs().flatten() for name in maskable(module)])
        count = max(1, int(len(magnitudes) * self.rate))
        return magnitudes.kthvalue(len(magnitudes) - count + 1).values


def maskable(module: nn.Module) -> list[str]:
    """Return the names of the weights and biases of all convolutions and linear layers."""
    layers = [name for name, part in module.named_modules() if isinstance(part, _ConvNd | nn.Linear)]
    return [f"{layer}.{name}" for layer in layers for name, _ in module.get_submodule(layer).named_parameters()]


class LargeOnes(torch.autograd.Function):
    """Sets to zero what is smaller in magnitude than a threshold, with FIARSE's gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor) -> Tensor:
        """Return ``weight`` without its small elements; ``threshold`` has shape ()."""
        ctx.save_for_backward(weight, threshold)
        return weight.masked_fill(weight.abs() < threshold, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient with respect to the weight."""
        weight, threshold = ctx.saved_tensors
        size = weight.abs()
        # Where both are zero, so is the numerator.
        slope = 2 * threshold * size / (size + threshold).square().clamp(min=torch.finfo(size.dtype).tiny)
        return (gradient * (1 + slope)).masked_fill(size < threshold, 0), None
