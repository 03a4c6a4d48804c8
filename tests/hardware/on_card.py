"""Training steps on a physical card and on the virtual GPU that stands for it, by PyTorch's own statistics.

On a machine with a card, ``python -m tests.hardware.on_card --output mine.csv`` runs every step of `STEPS` on both and
prints what differs. `results/card/h100-steps.csv` is such a table.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18

from profl.bench.errors import in_one_line
from profl.bench.memory import Prober
from profl.bench.memory.comparison.matching import matching_gpu
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu.profile import PHYSICAL
from tests.memory import distributed_steps, graphed_steps, recurrent_steps, table_of_steps
from tests.memory.unwatched import PEAKS, Unwatched

COLUMNS = ["step", *(f"{where}_{peak}_bytes" for where in ("card", "virtual") for peak in PEAKS)]


def in_channels_last(
    device: torch.device, precision: torch.dtype = torch.float32
) -> tuple[nn.Module, torch.optim.Optimizer, torch.Tensor, Callable[[], None]]:
    """ResNet18 on pictures of 224x224, channels last; in another precision under autocast."""
    module = resnet18().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    inputs = torch.zeros(16, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    targets = torch.zeros(16, dtype=torch.int64, device=device)

    def step() -> None:
        with torch.autocast("cuda", precision, enabled=precision != torch.float32):
            loss = functional.cross_entropy(module(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return module, optimizer, inputs, step


STEPS: dict[str, Callable[[torch.device], Any]] = {
    **table_of_steps.STEPS,
    "channels last": in_channels_last,
    "channels last, autocast": partial(in_channels_last, precision=torch.bfloat16),
    **{f"distributed: {name}": build for name, build in distributed_steps.STEPS.items()},
    **{f"recurrent: {name}": build for name, build in recurrent_steps.STEPS.items()},
    **{f"captured: {name}": build for name, build in graphed_steps.STEPS.items()},
}


def peaks(prober: Prober, gpu: str, name: str) -> tuple[int, ...]:
    """Return the peaks of a step on a GPU, in the order of `PEAKS`, with nothing recording."""
    found: tuple[int, ...] = prober.run(Unwatched(STEPS[name]), gpu, lambda _: None)
    return found


def compare(prober: Prober, card: str, virtual: str, names: Sequence[str], output: Path) -> None:
    """Run the steps on both, print a line for each, and write the table; a step that fails is told and left out."""
    with output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for name in names:
            try:
                there, here = peaks(prober, card, name), peaks(prober, virtual, name)
            except Exception as error:  # one step's failure is not the table's
                print(f"{name}: {str(error).strip().splitlines()[-1]}", flush=True)
                continue
            table.writerow([name, *there, *here])
            print(f"{name}: " + ("equal" if there == here else f"{there} on {card}, {here} on {virtual}"), flush=True)


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.hardware.on_card", description=__doc__)
    parser.add_argument("--gpu", default=PHYSICAL, help="the card")
    parser.add_argument("--virtual", help="the virtual GPU beside it; by default the one that stands for the card")
    parser.add_argument("--step", action="append", choices=STEPS, metavar="NAME", help="only these steps")
    parser.add_argument("--output", type=Path, default=Path("card.csv"))
    options = parser.parse_args()
    with Prober() as prober:
        try:
            virtual = options.virtual or matching_gpu(prober, options.gpu)
        except GpuUnavailable as error:
            parser.exit(1, f"Error: {in_one_line(error)}\n")
        compare(prober, options.gpu, virtual, options.step or list(STEPS), options.output)


if __name__ == "__main__":
    main()
