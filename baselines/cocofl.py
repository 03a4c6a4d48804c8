"""CoCoFL: every device trains a run of neighbouring stages; the others are frozen, their weights rounded to int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input
from torch.nn.modules.batchnorm import _BatchNorm

from profl.baselines.depth import stage_count
from profl.bench.aggregation import Update, owner_mean
from profl.bench.method import LocalContext, Method, Task
from profl.bench.models import ModelSpec
from profl.bench.randomness import numpy_generator


class CoCoFL(Method):
    """Pfeiffer et al.: *CoCoFL*, TMLR 2023; details as in their repository ``k1l1/CoCoFL`` [code].

    A device trains a window of stages, which begin and end anywhere; the stem trains with the first stage, the head
    with the last. Stages in front of the window run without autograd, those behind it pass gradients on; both have
    int8 weights, and BatchNorm as a fixed map by its running statistics [code]. A frozen stem or head stays as it is
    [code]. A device uploads what it trains, parameters and statistics. The server takes the mean over all devices of
    the round, where a device that froze a tensor counts as if it had sent the server's value [paper, algorithm 2].

    BatchNorm in the window normalises by the batch; its running statistics become the last batch's [code, of the
    ResNet18]. The full model is tested.

    A device takes a window that fits it and is part of no larger one that does; which of several is drawn [code].

    **What is int8 here.** Weights of frozen convolutions and linear layers are really held as int8, a quarter of the
    bytes, and received so. The features that enter such a layer, and the gradients on their way back, are rounded to
    the published grid of 128 steps, but held and multiplied as float32, which gives an int8 kernel's sums: PyTorch has
    none that runs on CPU and GPU alike. So the memory that a frozen layer needs in passing is more than an int8
    kernel's, never less. What stays for backward is the published code's: of a frozen layer nothing but its weights.
    """

    kind: ClassVar[str] = "freezing"
    shrinks: ClassVar[str] = "what trains, a run of stages (the weights of the others are int8)"
    source: ClassVar[str] = "Pfeiffer, Rapp, Khalili and Henkel, TMLR 2023; k1l1/CoCoFL"

    deviations = (
        "A window is made of stages; published are residual blocks, the stem and the head one by one.",
        "Frozen layers multiply float32 numbers that are rounded as for int8; published are int8 kernels of CPUs.",
        "Scales are taken from the numbers at hand, and what leaves a layer is rounded where it enters the next.",
        "Which of several windows a device takes is drawn once a round for all; published is a draw by every device.",
        "Frozen weights are received as int8; published are floats, rounded on the device.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of CoCoFL.

        Parameters
        ----------
        quantised
            Whether frozen stages have int8 weights and rounded features [code]; otherwise they are frozen alone, which
            tells what rounding saves and what it costs.
        """

        quantised: bool = True

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        stages = range(1, stage_count(model) + 1)
        self._windows = [
            WindowTask(model, first, last, options.quantised) for first in stages for last in stages if first <= last
        ]
        self._windows.sort(key=lambda task: task.first - task.last)

    def all_tasks(self) -> Sequence[Task]:
        return self._windows

    def tasks(self) -> Sequence[Task]:
        """Return the windows in a drawn order in which each comes behind all that contain it."""
        draw = numpy_generator(self.seed, "windows", self.finished_rounds)
        left = [self._windows[int(place)] for place in draw.permutation(len(self._windows))]
        order: list[WindowTask] = []
        while left:
            task = next(task for task in left if not any(other.contains(task) for other in left if other != task))
            left.remove(task)
            order.append(task)
        return order

    def aggregate(self, updates: Sequence[Update]) -> None:
        sent = set().union(*(update.state for update in updates))
        owner_mean(
            self.global_state,
            [
                replace(update, state={name: update.state.get(name, self.global_state[name]) for name in sent})
                for update in updates
            ],
        )


@dataclass(frozen=True)
class WindowTask(Task):
    """Train some neighbouring stages of a network whose other stages are frozen.

    Parameters
    ----------
    model
        The full network.
    first, last
        Stages at the ends of the window, from 1.
    quantised
        Whether the frozen stages are rounded.
    """

    model: ModelSpec
    first: int
    last: int
    quantised: bool = True

    @property
    def key(self) -> str:
        stages = f"stage {self.first}" if self.first == self.last else f"stages {self.first} to {self.last}"
        return stages if self.quantised else f"{stages} unrounded"

    def contains(self, other: WindowTask) -> bool:
        """Return whether every stage of another window is in this one."""
        return self.first <= other.first and other.last <= self.last

    def build(self) -> nn.Module:
        return WindowModel(self.model, self.first, self.last, self.quantised)

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        module.load_state_dict(
            {name: global_state[name] for name in module.state_dict() if name in global_state}, strict=False
        )
        for name, part in module.named_modules():
            if isinstance(part, RoundedLayer | FixedNorm):
                prefix = f"{name}."
                part.take(
                    {key.removeprefix(prefix): value for key, value in global_state.items() if key.startswith(prefix)}
                )

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        """Upload all tensors of the parts that train."""
        assert isinstance(module, WindowModel)  # as built
        whole = super().update(module, global_state, local)
        return replace(
            whole, state={name: value for name, value in whole.state.items() if name.startswith(module.trained)}
        )


class WindowModel(nn.Module):
    """A network of which a window of stages trains; what trains is named as in the full model.

    Parameters
    ----------
    spec
        The full network.
    first, last
        Stages at the ends of the window, from 1.
    quantised
        Whether the frozen stages are rounded.
    """

    def __init__(self, spec: ModelSpec, first: int, last: int, quantised: bool) -> None:
        super().__init__()
        full = spec.build()
        self.stem, self.stages, self.head = full.stem, full.stages, full.head
        self.begin = first - 1
        window = range(self.begin, last)
        parts = {"stem": first == 1, **{f"stages.{stage}": stage in window for stage in range(len(self.stages))}}
        parts["head"] = last == len(self.stages)
        self.trained = tuple(f"{name}." for name, trains in parts.items() if trains)
        for stage in window:
            for part in self.stages[stage].modules():
                if isinstance(part, _BatchNorm):
                    part.momentum = 1.0
        for name, trains in parts.items():
            if not trains:
                part = self.get_submodule(name)
                part.requires_grad_(False)
                if name.startswith("stages."):
                    freeze(part, quantised)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (batch, classes)."""
        parts = [self.stem, *self.stages]
        frozen = self.begin + 1 if self.begin else 0  # the stem trains with the first stage
        features = inputs
        with torch.no_grad():
            for part in parts[:frozen]:
                features = part(features)
        for part in parts[frozen:]:
            features = part(features)
        return self.head(features)


def freeze(part: nn.Module, quantised: bool) -> None:
    """Put fixed layers in the place of BatchNorm, and rounded ones in that of convolutions and linear layers."""
    for name, child in part.named_children():
        if isinstance(child, _BatchNorm) and child.affine and child.track_running_stats:
            part.add_module(name, FixedNorm(child))
        elif quantised and type(child) is nn.Conv2d and child.padding_mode == "zeros" and child.padding != "same":
            part.add_module(name, RoundedConvolution(child))
        elif quantised and type(child) is nn.Linear:
            part.add_module(name, RoundedLinear(child))
        else:
            freeze(child, quantised)


class FixedNorm(nn.Module):
    """BatchNorm by its running statistics as one multiplication and addition a channel, which keeps nothing."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.scale = nn.Parameter(torch.empty_like(norm.weight), requires_grad=False)
        self.shift = nn.Parameter(torch.empty_like(norm.bias), requires_grad=False)

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Take the values of the BatchNorm that this one stands for, by their names in it."""
        self.scale.copy_(values["weight"] * (values["running_var"] + self.eps).rsqrt())
        self.shift.copy_(values["bias"] - values["running_mean"] * self.scale)

    def forward(self, features: Tensor) -> Tensor:
        shape = (-1, *[1] * (features.ndim - 2))
        return torch.addcmul(self.shift.view(shape), features, self.scale.view(shape))


class RoundedLayer(nn.Module):
    """A frozen layer with int8 weights, which rounds the features that enter and the gradients that come back.

    Parameters
    ----------
    layer
        The convolution or linear layer that it stands for.
    """

    step: Tensor
    """Of the grid that the weight is rounded to, shape ()."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        weight = layer.weight
        self.rounded = nn.Parameter(torch.empty_like(weight, dtype=torch.int8), requires_grad=False)
        self.register_buffer("step", torch.empty((), dtype=weight.dtype, device=weight.device))
        self.bias = layer.bias

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Round the weight of the layer that this one stands for; the bias is loaded by its name."""
        self.step.copy_(grid_step(values["weight"]))
        self.rounded.copy_((values["weight"] / self.step).round_())

    def forward(self, features: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            output = _Rounded.apply(features, self)
        else:  # in place, so that rounding needs no memory: whoever else reads the features gets them rounded [code]
            step = grid_step(features)
            output = self.product(features.div_(step).round_(), step)
            features.mul_(step)
        return output if self.bias is None else output + self.bias.view(-1, *[1] * self.trailing)

    def product(self, whole: Tensor, step: Tensor) -> Tensor:
        """Return what the layer gives, without bias, for whole numbers of a step."""
        return self.apply_to(whole, self.rounded.to(whole.dtype)).mul_(step * self.step)

    trailing: ClassVar[int]
    """How many dimensions stand behind that of the channels."""

    def apply_to(self, features: Tensor, weight: Tensor) -> Tensor:
        """Return what the layer gives for features, without bias."""
        raise NotImplementedError

    def input_gradient(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient of features of this shape."""
        raise NotImplementedError


class RoundedConvolution(RoundedLayer):
    """A `RoundedLayer` that convolves."""

    trailing = 2

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        padding = (0, 0) if isinstance(layer.padding, str) else layer.padding  # "valid", as "same" is left as it is
        self.geometry = layer.stride, padding, layer.dilation, layer.groups

    def apply_to(self, features: Tensor, weight: Tensor) -> Tensor:
        stride, padding, dilation, groups = self.geometry
        return functional.conv2d(features, weight, None, stride, padding, dilation, groups)

    def input_gradient(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return conv2d_input(shape, weight, gradient, *self.geometry)


class RoundedLinear(RoundedLayer):
    """A `RoundedLayer` that multiplies by a matrix."""

    trailing = 0

    def apply_to(self, features: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(features, weight)

    def input_gradient(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return gradient @ weight


class _Rounded(torch.autograd.Function):
    """A rounded layer's product, of whose features nothing is kept for backward."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, layer: RoundedLayer) -> Tensor:
        ctx.layer, ctx.shape = layer, features.shape
        step = grid_step(features)
        return layer.product((features / step).round_(), step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        layer, step = ctx.layer, grid_step(gradients[0])
        whole = (gradients[0] / step).round_()
        return layer.input_gradient(whole, layer.rounded.to(whole.dtype), ctx.shape).mul_(step * layer.step), None


def grid_step(values: Tensor) -> Tensor:
    """Return the step of the grid that values are rounded to, shape (): 2/127 of the largest magnitude [code]."""
    low, high = values.aminmax()
    return (torch.maximum(-low, high) * (2 / 127)).clamp(min=torch.finfo(values.dtype).tiny)
