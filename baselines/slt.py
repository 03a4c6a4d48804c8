"""SLT: block after block trains at full width and is then frozen, with the rest of the network at a small width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from profl.baselines.depth import stage_count
from profl.baselines.width import RATES, load_leading, parse_rates
from profl.bench.aggregation import Update
from profl.bench.errors import InputError
from profl.bench.method import LocalContext, Method, Task, TestedNetwork
from profl.bench.models import ModelSpec, StagedModel
from profl.blocks import changed_state, pass_through
from profl.steps import Step, apportion, begun

FULL = Fraction(1)


class SLT(Method):
    """Pfeiffer, Khalili and Henkel: *Successive Layer Training*, NeurIPS 2023; details as in their ``k1l1/SLT``.

    First the whole network trains at a small width. Then, from front to back, one block at a time gets its full width:
    a device trains it and all that lies behind it at a width s, the leading channels, on top of the blocks before it,
    which are frozen at full width. The first layers at width s read all channels of the wide block. A step of width
    1 is the last: all that is not frozen trains [code]. The width of a step is the widest that as many devices can
    train as any; that of the beginning is the first step's [code].

    The beginning takes the share s of all rounds, and each step a share of the others in proportion to the parameters
    that train in it [code]; if as many devices can train the full model as anything else, it takes all rounds and
    this is federated averaging, to the bit.

    A device uploads what trains, and the running statistics of the frozen blocks. The server takes each element's
    plain mean over the devices that hold it; what nobody holds keeps its value [code]. The network that is tested is
    the step's, wide in front and narrow behind [code].

    Raises
    ------
    InputError
        If the rounds do not suffice, the rates are no rates, or a block's input is read by anything but convolutions.
    """

    kind: ClassVar[str] = "progressive"
    shrinks: ClassVar[str] = "what trains: one block at full width and narrow ones behind it, on frozen ones"
    source: ClassVar[str] = "Pfeiffer et al., Successive Layer Training, NeurIPS 2023; github.com/k1l1/SLT"
    deviations = (
        "A step adds a block at full width; published is one layer, which needs less memory.",
        "The width of a step is the widest of HeteroFL's that as many devices can train as any; published is any width "
        "that the weakest device can hold by a formula.",
        "Where as many devices can train the full model as anything else, they train it in every round, exactly as in "
        "FedAvg.",
        "All devices train alike; in the published code stronger ones also train wide layers in front.",
        "BatchNorm keeps running statistics; published has none.",
    )

    @dataclass(frozen=True)
    class Options:
        """Options of SLT.

        Parameters
        ----------
        rates
            Shares of the channels to choose from, in any order. Default: HeteroFL's [default].
        """

        rates: tuple[str | float, ...] = RATES

    def __init__(self, model: ModelSpec, rounds: int, seed: int, options: Any) -> None:
        super().__init__(model, rounds, seed, options)
        self._rates = parse_rates(options.rates)
        self._blocks = stage_count(model)
        for block in range(1, self._blocks):
            readers(model, block)  # what cannot be widened is refused here, not in a worker
        if rounds < self._blocks + 1:
            least = self._blocks + 1
            raise InputError(f"slt cannot train {model.name} in {rounds} rounds: give it at least {least}")
        self._enter([self._rates[-1]] * (self._blocks - 1))

    def _enter(self, widths: Sequence[Fraction]) -> None:
        """Begin the schedule with these widths behind the first block, the second and so on."""
        self._widths = list(widths)
        self._steps = schedule(self.model, self.rounds, self._widths)

    def _begun(self) -> Sequence[WidenedTask]:
        """Return what has trained so far; what trains in the coming round is the last."""
        return [step.task for step in begun(self._steps, self.finished_rounds)]

    def all_tasks(self) -> Sequence[Task]:
        behind = [self._offers(block) for block in range(1, self._blocks)]
        last = WidenedTask(self.model, self._blocks, FULL)
        return [*(task for tasks in behind for task in tasks), last, *self._offers(0)]

    def _offers(self, block: int) -> list[WidenedTask]:
        return [WidenedTask(self.model, block, rate) for rate in self._rates]

    def tasks(self) -> Sequence[Task]:
        return [self._begun()[-1]]

    def settle(self, eligible_devices: Mapping[str, int]) -> None:
        widths = []
        for block in range(1, self._blocks):
            counts = [eligible_devices[task.key] for task in self._offers(block)]
            widths.append(self._rates[counts.index(max(counts))] if any(counts) else self._rates[-1])
        self._enter(widths)

    @property
    def phase(self) -> str:
        task = self._begun()[-1]
        return f"grow {task.blocks}/{self._blocks}" if task.blocks else "train narrow"

    def tested_networks(self) -> Sequence[TestedNetwork]:
        return [
            TestedNetwork(
                f"{task.blocks} wide, width {task.rate}", partial(widened, self.model, task.blocks, task.rate)
            )
            for task in reversed(self._begun())
        ]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "widths": [str(width) for width in self._widths]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._enter([Fraction(width) for width in state["widths"]])


@dataclass(frozen=True)
class WidenedTask(Task):
    """Train a block at full width and all behind it at another, on top of frozen blocks.

    Parameters
    ----------
    model
        The full model.
    blocks
        How many blocks are at full width, the last of which trains; 0 for none.
    rate
        Width of the others and of the head's input.
    """

    model: ModelSpec
    blocks: int
    rate: Fraction

    @property
    def key(self) -> str:
        return f"grow {self.blocks} width {self.rate}" if self.blocks else f"narrow {self.rate}"

    def build(self) -> nn.Module:
        module = widened(self.model, self.blocks, self.rate)
        if self.blocks > 1:
            for part in [module.stem, *module.stages[: self.blocks - 1]]:
                part.requires_grad_(False)
        return module

    def load(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> None:
        load_leading(module, global_state)

    def update(self, module: nn.Module, global_state: Mapping[str, Tensor], local: LocalContext) -> Update:
        return Update(changed_state(module), local.examples)

    @property
    def trained_scalars(self) -> int:
        """How many scalars train."""
        with torch.device("meta"):
            return sum(value.numel() for value in self.build().parameters() if value.requires_grad)


def schedule(model: ModelSpec, rounds: int, widths: Sequence[Fraction]) -> list[Step[WidenedTask]]:
    """Return the steps of a run in their order; their rounds sum to ``rounds``.

    Parameters
    ----------
    model, rounds
        The full model, and at least as many rounds as steps.
    widths
        Width behind the first block, the second and so on; the last has nothing behind it.
    """
    tasks = []
    for block, rate in enumerate([*widths, FULL], start=1):
        tasks.append(WidenedTask(model, block, rate))
        if rate == FULL:
            break
    narrow = WidenedTask(model, 0, tasks[0].rate)
    if narrow.rate == FULL:
        return [Step(narrow, rounds)]
    beginning = min(max(1, int(narrow.rate * rounds)), rounds - len(tasks))
    parts = apportion(rounds - beginning, [task.trained_scalars for task in tasks], least=1)
    return [Step(narrow, beginning), *(Step(task, part) for task, part in zip(tasks, parts, strict=True))]


def widened(model: ModelSpec, blocks: int, rate: Fraction) -> StagedModel:
    """Return the network whose first ``blocks`` blocks are at full width and all else is at ``rate``.

    Its tensors are the leading elements of the full model's. What reads the last wide block reads all its channels.
    """
    network = model.at_rate(rate).build()
    if blocks == 0 or rate == FULL:
        return network
    wide = model.build()
    network.stem = wide.stem
    for block in range(blocks):
        network.stages[block] = wide.stages[block]
    behind = network.stages[blocks]
    for name in readers(model, blocks):
        narrow = behind.get_submodule(name)
        assert isinstance(narrow, nn.Conv2d)  # as `readers` says
        behind.set_submodule(name, _reading(wide.stage_channels[blocks], narrow))
    return network


def _reading(channels: int, convolution: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution like another, but for the channels that go in."""
    return nn.Conv2d(
        channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )


@cache
def readers(model: ModelSpec, stage: int) -> tuple[str, ...]:
    """Return the names, within a stage (counted from 0), of the layers that read its input.

    Raises
    ------
    InputError
        If one of them is no convolution over all channels, or there is none.
    """
    network = model.skeleton()
    examples = torch.empty(2, *network.input_shape, dtype=network.input_dtype, device="meta")
    features = pass_through([network.stem, *network.stages[:stage]], examples)
    found: dict[str, nn.Module] = {}

    def note(name: str, part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0] is features:
            found[name] = part

    for name, part in network.stages[stage].named_modules():
        if not any(part.children()):
            part.register_forward_pre_hook(partial(note, name))
    network.stages[stage](features)
    if not found or not all(isinstance(part, nn.Conv2d) and part.groups == 1 for part in found.values()):
        layers = " and ".join(type(part).__name__ for part in found.values()) or "no layer of its own"
        raise InputError(
            f"slt cannot train {model.name}, whose block {stage + 1} must read its input by convolutions alone: "
            f"{layers} does"
        )
    return tuple(found)
