"""What tests of sweeps share: a small grid, a silent listener, and a run without its clock."""

from dataclasses import replace
from pathlib import Path

from profl.bench.cell import Cell
from profl.bench.config import Config, Grid
from profl.bench.engine import Engine, Outcome
from profl.bench.experiment import Experiment
from profl.bench.memory.process.probe import Prober
from profl.bench.results.folder import folder_of
from profl.bench.sweep import run_sweep
from tests.conftest import SMALL_RECIPE

GRID = {
    "method": ["fedavg", "exclusive", "heterofl"],
    "model": ["resnet18"],
    "width": [2],
    "dataset": ["digits"],
    "tier": ["50%", "100%"],
    "seed": [0],
}
CONFIG = Config(Grid(**GRID), "virtual:jetson-orin", recipe=replace(SMALL_RECIPE, rounds=2))


class Silent:
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.rounds: list[tuple[str, int]] = []
        self.errors: dict[str, str | None] = {}
        self.accuracies: dict[str, float] = {}
        self.taken: list[str] = []
        self.measured_cells: list[Cell] = []

    def measured(self, cell: Cell) -> None:
        self.measured_cells.append(cell)

    def round(self, cell: Cell, row: dict) -> None:
        self.rounds.append((cell.folder_name, row["round"]))

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        if outcome.taken:
            self.taken.append(cell.folder_name)
            return
        self.errors[cell.folder_name] = outcome.error
        self.accuracies[cell.folder_name] = outcome.summary and outcome.summary["final_accuracy"]


def sweep(todo: list[Cell], output: Path, engine: Engine, prober: Prober, listener: Silent) -> None:
    """Look up what the cells name, and run them."""
    run_sweep([Experiment.of(cell) for cell in todo], output, engine, prober, listener)


def bits(todo: list[Cell], output: Path) -> dict[str, list[dict]]:
    return {
        cell.folder_name: [
            {name: value for name, value in row.items() if name not in ("seconds", "attempt")}
            for row in folder_of(cell, output).rounds()
        ]
        for cell in todo
    }
