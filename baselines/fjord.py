"""FjORD: every device trains the leading channels it can hold, in every batch as many of them as a draw says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import cycle
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from profl.baselines.width import load_leading, parse_rates
from profl.bench.aggregation import Update, leading, owner_mean
from profl.bench.method import LocalContext, Method, Task, TestedNetwork
from profl.bench.models import ModelSpec, StagedModel
from profl.bench.models.normalisation import normalise
from profl.bench.randomness import torch_generator


class FjORD(Method):
    """Horváth et al.: *FjORD*, NeurIPS 2021, and the authors' baseline ``fjord`` in Flower.

    Ordered dropout: for every batch a device draws a rate, uniformly among those up to its own, and trains the first
    ``ceil(rate * channels)`` channels of every layer; the channels behind them get gradients of zero [paper;
    code]. With self-distillation it also trains its widest network on that batch, and the drawn one learns from the
    widest's outputs in place of the labels [code]. A device uploads its widest network. The server takes each element's
    mean over the devices that hold it, weighted by their examples [code].

    BatchNorm has one weight and bias, and running statistics of its own for every rate [code]. Here it is *static*:
    training normalises by the batch and keeps no statistics, and before a test those of the tested width are estimated.

    While memory is measured the rates take turns, every second time the widest. Floating-point operations are counted
    at the widest, though a device draws narrower networks too: they are an upper bound.

    The network that is tested is the widest that any device has trained so far (the harness's rule for all).
    """

    kind = "width"
    shrinks = "channels, the leading ones, fewer in some batches"
    source = "Horváth et al., NeurIPS 2021 (arXiv 2102.13451); adap/flower, baselines/fjord"
    keeps_batchnorm_statistics = False

    deviations = (
        "No running statistics are kept for every rate: those of the tested width are estimated before the test.",
        "A device's widest rate is what fits its memory; published are five tiers of equally many devices.",
        "Both losses of self-distillation go backward together, which takes more memory than one after the other.",
        "Operations are counted as if every batch were of the device's widest rate, and are an upper bound.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of FjORD.

        Parameters
        ----------
        rates
            Shares of the channels, in any order: what a device can hold and what it draws from [paper].
        self_distillation
            Whether the drawn network learns from the widest one. Off, as in the published baseline's default [code].
        weighted_by_examples
            Weigh devices by their numbers of examples [code]; otherwise all count alike, as in the other methods.
        """

        rates: tuple[str | float, ...] = ("1", "4/5", "3/5", "2/5", "1/5")
        self_distillation: bool = False
        weighted_by_examples: bool = True

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        rates = parse_rates(options.rates)
        self._tasks = [
            OrderedDropout(model.at_rate(rate), tuple(rates[place + 1 :]), options.self_distillation)
            for place, rate in enumerate(rates)
        ]

    def all_tasks(self) -> Sequence[Task]:
        return self._tasks

    def tasks(self) -> Sequence[Task]:
        return self._tasks

    def aggregate(self, updates: Sequence[Update]) -> None:
        owner_mean(self.global_state, updates, by_examples=self.options.weighted_by_examples)

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [TestedNetwork(f"width {task.model.rate}", task.model.build) for task in self._tasks]


@dataclass(frozen=True)
class OrderedDropout(Task):
    """Train the leading channels, in every batch as many as a draw says.

    Parameters
    ----------
    model
        The network at the device's rate, the widest that it trains.
    narrower
        The other rates that it draws from, widest first.
    distilled
        Whether the drawn network learns from the widest.
    """

    unsuited_techniques: ClassVar[Mapping[str, str]] = {"micro-batch": "would draw a width for every part of a batch"}

    model: ModelSpec
    narrower: tuple[Fraction, ...]
    distilled: bool

    @property
    def key(self) -> str:
        return f"up to width {self.model.rate}" + (" distilled" if self.distilled else "")

    def build(self) -> nn.Module:
        module = self.model.build()
        normalise(module, "static")
        widest = self.model.rate
        _draw_from(module, cycle([rate for narrow in self.narrower or [widest] for rate in (widest, narrow)]))
        return module

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        load_leading(module, global_state)
        _draw_from(module, self._draws(local))

    def _draws(self, local: LocalContext) -> Iterator[Fraction]:
        rates = [self.model.rate, *self.narrower]
        generator = torch_generator(local.generator.initial_seed(), "rates")
        while True:
            yield rates[int(torch.randint(len(rates), (), generator=generator))]

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        rate = next(vars(module)["rates"])
        if not self.distilled:
            return functional.cross_entropy(self.logits(module, rate, inputs), targets)
        widest = module(inputs)
        taught = functional.cross_entropy(self.logits(module, rate, inputs), widest.detach().softmax(dim=1))
        return functional.cross_entropy(widest, targets) + taught

    def logits(self, module: nn.Module, rate: Fraction, inputs: Tensor) -> Tensor:
        """Return what the leading channels of ``module`` at a rate give, shape (batch, classes)."""
        if rate == self.model.rate:
            return module(inputs)
        narrow = _skeleton(self.model.at_rate(rate))
        wide = dict([*module.named_parameters(), *module.named_buffers()])
        tensors = [*narrow.named_parameters(), *narrow.named_buffers()]
        return functional_call(narrow, {name: leading(wide[name], value.shape) for name, value in tensors}, (inputs,))


def _draw_from(module: nn.Module, rates: Iterator[Fraction]) -> None:
    """Let the next batches of a module be of these rates."""
    vars(module)["rates"] = rates


@cache
def _skeleton(model: ModelSpec) -> StagedModel:
    """Return a network without memory, whose tensors are lent to it."""
    network = model.skeleton()
    normalise(network, "static")
    return network
