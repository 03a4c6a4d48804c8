"""One measured cell's folder, and what its tests write into it."""

import json
from pathlib import Path

import pytest
import torch

from profl.bench.memory.footprint import Block, Environment, Footprint
from profl.bench.results import CELL_COLUMNS, ROUND_COLUMNS, CellFolder
from tests.conftest import small_cell

MEASURED = Footprint(
    key="fedavg/full model of resnet18",
    steps=3,
    peak_requested_bytes=7,
    peak_allocated_bytes=512,
    peak_reserved_bytes=2 << 20,
    least_budget_bytes=2 << 20,
    parameter_bytes=2,
    peak_activation_bytes=0,
    categories_at_peak={"parameters": 2, "optimizer state": 5},
    largest_blocks=(Block(5, "optimizer state"),),
    nvml_used_bytes=None,
    environment=Environment("virtual:h100", "virtual h100", True, 80 << 30, "2", "13", "9", "default"),
)
FOOTPRINT = {"task": "full model", "batch_size": 16, "gpu": "virtual:jetson-orin", **MEASURED.to_dict()}
CELL = small_cell()
SUMMARY: dict[str, float] = {
    name: 0.5
    for name in CELL_COLUMNS
    if name not in {*CELL.to_dict(), "cell", "status", "rounds", "measured_as", "learning_rate"}
}
SUMMARY |= {"uploaded_bytes": 0.0, "downloaded_bytes": 0.0}


def row(number: int, **more: object) -> dict:
    return {
        **dict.fromkeys(ROUND_COLUMNS, 0.0),
        "round": number,
        "phase": "train",
        "attempt": 1,
        "tested": "full model",
        "diagnostics": {},
        "tasks": {},
        "test_accuracy": 0.5,
        **more,
    }


def altered(**values: object) -> str:
    """Return a footprints file with other values."""
    return json.dumps([{**FOOTPRINT, **values}])


@pytest.fixture
def folder(tmp_path: Path) -> CellFolder:
    folder = CellFolder(tmp_path / "cells" / CELL.folder_name)
    folder.begin(CELL.to_dict())
    folder.enter({"torch": "x"}, 0)
    folder.write_footprints([FOOTPRINT])
    return folder


def add(folder: CellFolder, number: int, **more: object) -> None:
    folder.append_round(row(number, **more), {"round": number, "method": {"value": torch.tensor(number)}})
