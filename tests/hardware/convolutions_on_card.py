"""What cuDNN takes for single convolutions on a physical card and on the virtual GPU that stands for it.

On a machine with a card, for an H100,

    python -m tests.hardware.convolutions_on_card results/card/h100-convolutions.csv --output mine.csv

runs every convolution of the table on both, as PyTorch runs it, and writes the table anew. Its first columns say which
convolutions; they are those of the methods' tasks on the models of the study, in batches of 64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from profl.bench.errors import InputError, in_one_line
from profl.bench.memory import Prober
from profl.bench.memory.comparison.matching import matching_gpu
from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed
from profl.bench.memory.gpu.profile import PHYSICAL

SHAPE = ["examples", "channels", "size", "filters", "kernel", "stride", "padding", "groups", "gradient_of"]
"""Of a convolution of square pictures; ``gradient_of`` is "input" or "weight", or empty for the forward pass."""

PASSES = ("", "input", "weight")

COLUMNS = [*SHAPE, "card_workspace_bytes", "virtual_workspace_bytes"]

Shape = tuple[int, int, int, int, int, int, int, int, str]


@dataclass(frozen=True)
class Workspaces:
    """The bytes that each convolution requests beside its results, while nothing else is running."""

    shapes: tuple[Shape, ...]
    key: str = "convolutions"

    def run(self, device: torch.device, report: Callable[[object], None]) -> list[int]:
        return [_workspace_bytes(device, shape) for shape in self.shapes]


def _workspace_bytes(device: torch.device, shape: Shape) -> int:
    examples, channels, size, filters, kernel, stride, padding, groups, gradient_of = shape
    inputs = torch.zeros(examples, channels, size, size, device=device)
    weight = torch.zeros(filters, channels // groups, kernel, kernel, device=device)
    settings = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups)
    gradient = torch.zeros_like(torch.ops.aten.convolution(inputs, weight, None, *settings)) if gradient_of else None
    before = torch.cuda.memory_stats(device)["requested_bytes.all.current"]
    torch.cuda.reset_peak_memory_stats(device)
    if gradient is None:
        result = torch.ops.aten.convolution(inputs, weight, None, *settings)
    else:
        wanted = [gradient_of == "input", gradient_of == "weight", False]
        of_inputs, of_weight, _ = torch.ops.aten.convolution_backward(gradient, inputs, weight, None, *settings, wanted)
        result = of_inputs if gradient_of == "input" else of_weight
    peak: int = torch.cuda.memory_stats(device)["requested_bytes.all.peak"]
    return peak - before - result.nbytes


def compared(prober: Prober, shapes: pd.DataFrame, card: str, virtual: str) -> pd.DataFrame:
    """Return the shapes with the workspaces of both in bytes: `COLUMNS`."""
    asked = Workspaces(tuple(shapes[SHAPE].itertuples(index=False, name=None)))
    found = {
        f"{where}_workspace_bytes": prober.run(asked, gpu, lambda _: None)
        for where, gpu in (("card", card), ("virtual", virtual))
    }
    return shapes[SHAPE].assign(**found)


def read(path: Path) -> pd.DataFrame:
    """Return a table of convolutions; of the forward pass ``gradient_of`` is empty.

    Raises
    ------
    InputError
        If it is no such table, or holds none.
    """
    try:
        table = pd.read_csv(path, keep_default_na=False).astype(dict.fromkeys(SHAPE[:-1], "int64"))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no table of convolutions: {in_one_line(error)}") from None
    if table.empty or not set(table["gradient_of"]) <= set(PASSES):
        raise InputError(f"{path} is no table of convolutions: gradient_of must be input, weight or empty in every row")
    return table


def main() -> None:
    """Parse the command line, compare, and say how many are equal."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hardware.convolutions_on_card",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shapes", type=Path, help="a table whose first columns say which convolutions")
    parser.add_argument("--gpu", default=PHYSICAL, help="the card")
    parser.add_argument("--virtual", help="the virtual GPU beside it; by default the one that stands for the card")
    parser.add_argument("--output", type=Path, default=Path("convolutions.csv"), help="the table")
    options = parser.parse_args()
    if not options.output.parent.is_dir():
        parser.error(f"there is no folder {options.output.parent} for --output")
    try:
        shapes = read(options.shapes)
        with Prober() as prober:
            virtual = options.virtual or matching_gpu(prober, options.gpu)
            table = compared(prober, shapes, options.gpu, virtual)
    except (InputError, GpuUnavailable, MeasurementFailed) as error:
        parser.exit(1, f"Error: {in_one_line(error)}\n")
    table.to_csv(options.output, index=False)
    equal = (table["card_workspace_bytes"] == table["virtual_workspace_bytes"]).sum()
    print(f"{len(table)} convolutions, {equal} of them with the card's workspace: {options.output}")


if __name__ == "__main__":
    main()
