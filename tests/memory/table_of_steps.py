"""Training steps by PyTorch's own statistics, as we measure them and as we estimate them: the table of docs/trust.md.

``python -m tests.memory.table_of_steps`` prints it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from profl.bench.memory import BuiltStep, MeasurementFailed, Prober
from tests.memory import steps_as_written, steps_by_field
from tests.memory.unwatched import PEAKS, Unwatched

GPU = "t4"
HEADING = "| step | PyTorch's peak | measured | estimated | difference |\n|---|---|---|---|---|"

STEPS: dict[str, Callable[[torch.device], Any]] = {
    name: build for steps in (steps_as_written.STEPS, *steps_by_field.STEPS.values()) for name, build in steps.items()
}


class Row(NamedTuple):
    """A step's peaks, by the names of `PEAKS`; of the estimate the requested one. None: it is refused."""

    step: str
    own: tuple[int, ...]
    measured: tuple[int, ...]
    estimated_bytes: int | None

    @property
    def line(self) -> str:
        """Of the table."""
        peak_bytes = self.own[0]
        if self.estimated_bytes is None:
            estimate = "refused |"
        else:
            difference = self.estimated_bytes / peak_bytes - 1
            told = "equal" if self.estimated_bytes == peak_bytes else f"{100 * difference:+.2f} %"
            estimate = f"{self.estimated_bytes:,} | {told}"
        measured = "equal" if self.measured == self.own else f"{self.measured[0]:,}"
        return f"| {self.step} | {peak_bytes:,} | {measured} | {estimate} |"


def row(prober: Prober, name: str) -> Row:
    """Return the row of this step."""
    step = BuiltStep(STEPS[name])
    own = prober.run(Unwatched(STEPS[name]), f"virtual:{GPU}", lambda _: None)
    footprint = prober.measure(step, f"virtual:{GPU}", least_budget=False, timeline=True)
    try:
        estimated_bytes = prober.measure(step, f"estimate:{GPU}", least_budget=False).peak_requested_bytes
    except MeasurementFailed as refused:
        if "cannot be estimated" not in str(refused):
            raise
        estimated_bytes = None
    return Row(name, own, tuple(getattr(footprint, f"peak_{peak}_bytes") for peak in PEAKS), estimated_bytes)


def print_table() -> None:
    """Measure every step and print its row."""
    print(HEADING)
    with Prober() as prober:
        for name in STEPS:
            print(row(prober, name).line, flush=True)


if __name__ == "__main__":
    print_table()
