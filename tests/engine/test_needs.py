"""What a cell's process asks for follows from what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from profl.bench.cell import Cell
from profl.bench.engine import Job
from profl.bench.engine.needs import CONTEXT_BYTES, PROCESS_BYTES, gpu_share, memory_bytes
from profl.bench.experiment import Experiment
from profl.bench.memory.gpu.profile import PHYSICAL
from profl.bench.results import CellFolder
from tests.conftest import SMALL_RECIPE, small_cell
from tests.results.conftest import FOOTPRINT

GIB = 2**30


def job(cell: Cell, path: Path = Path(), full_model_bytes: int = 3 * GIB) -> Job:
    return Job(Experiment.of(cell), path, {"full model": GIB}, full_model_bytes)


def test_memory_is_that_of_process_data_models_and_step():
    few, many = (small_cell(recipe=replace(SMALL_RECIPE, participants=count)) for count in (3, 13))
    model = job(few).experiment.model.build()
    state_bytes = sum(value.nbytes for value in model.state_dict().values())
    data_bytes = 1797 * (3 * 32 * 32 * 4 + 8)
    assert memory_bytes(job(few)) == PROCESS_BYTES + 2 * data_bytes + 7 * state_bytes + 3 * GIB
    assert memory_bytes(job(many)) - memory_bytes(job(few)) == 10 * state_bytes
    assert memory_bytes(job(few, full_model_bytes=0)) == memory_bytes(job(few)) - 2 * GIB
    assert memory_bytes(job(replace(few, memory_only=True))) == memory_bytes(job(few)) + PROCESS_BYTES


@pytest.mark.parametrize(
    ("used_bytes", "reserved_bytes", "full_model_bytes", "share"),
    [
        (None, 9 * GIB, 0, 0.13),  # 10 of 80 GiB
        (12 * GIB, 9 * GIB, 0, 0.15),  # as the driver told
        (None, GIB, 39 * GIB, 0.5),  # the full model is tested
        (None, 90 * GIB, 0, 1.0),
    ],
)
def test_the_share_of_a_card_is_what_a_task_held(
    tmp_path: Path, used_bytes: int | None, reserved_bytes: int, full_model_bytes: int, share: float
):
    entry = {**FOOTPRINT, "nvml_used_bytes": used_bytes, "peak_reserved_bytes": reserved_bytes}
    CellFolder(tmp_path).write_footprints([FOOTPRINT, entry])
    assert CONTEXT_BYTES == GIB
    assert gpu_share(job(replace(small_cell(), gpu=PHYSICAL), tmp_path, full_model_bytes)) == share


def test_training_on_processors_asks_for_no_card(tmp_path: Path):
    assert gpu_share(job(small_cell(), tmp_path)) == 0
    assert gpu_share(job(replace(small_cell(), gpu=PHYSICAL, memory_only=True), tmp_path)) == 0
