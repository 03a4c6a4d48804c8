"""Traces of physical cards, found in public, against the same steps on the virtual GPU: the table of docs/trust.md."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from profl.bench.memory import BuiltStep, Footprint, Prober
from profl.bench.memory.comparison.measured_run import recorded_run
from profl.bench.memory.replay.allocator import Allocator, AllocatorSettings
from tests.hardware import attention, language_model, resnet18, resnet50

TRUST = (Path(__file__).parents[2] / "docs" / "trust.md").read_text()


class Restated(NamedTuple):
    """A step that was traced on a card: how to run it here, and on which virtual GPU."""

    step: BuiltStep
    gpu: str
    steps: int


class Row(NamedTuple):
    """A row of the table: what the card said, and what we say."""

    workload: str
    quantity: str
    card_bytes: int
    our_bytes: int


def language(context: int, autocast: bool, gpu: str) -> Restated:
    build = partial(language_model.build, context=context, autocast=autocast)
    return Restated(BuiltStep(build), gpu, language_model.WARM_UPS + 1)


WORKLOADS = {
    "language model, context 128": language(128, False, "virtual:rtx4090"),
    "language model, context 256": language(256, False, "virtual:rtx4090"),
    "language model, context 512, bfloat16": language(512, True, "virtual:a100-80"),
    "language model, context 1024, bfloat16": language(1024, True, "virtual:a100-80"),
    "attention": Restated(BuiltStep(attention.build), "virtual:rtx4090", 1),
    "ResNet50": Restated(BuiltStep(resnet50.build), "virtual:a100-80", 5),
    "ResNet18": Restated(BuiltStep(resnet18.build), "virtual:t4", 3),
}
ROWS = [
    Row("language model, context 128", "peak requested", 7_013_335_044, 7_013_335_044),
    Row("language model, context 128", "peak reserved", 7_235_174_400, 7_251_951_616),
    Row("language model, context 256", "peak requested", 9_103_544_320, 9_103_544_320),
    Row("language model, context 256", "peak reserved", 9_265_217_536, 9_219_080_192),
    Row("language model, context 512, bfloat16", "peak requested", 12_426_629_128, 12_426_629_128),
    Row("language model, context 512, bfloat16", "peak reserved", 12_660_506_624, 12_593_397_760),
    Row("language model, context 1024, bfloat16", "peak requested", 24_207_167_496, 24_207_167_496),
    Row("language model, context 1024, bfloat16", "peak reserved", 25_178_406_912, 24_928_845_824),
    Row("attention", "peak requested", 3_249_143_816, 3_249_143_816),
    Row("attention", "peak reserved", 3_781_165_056, 3_781_165_056),
    Row("ResNet50", "parameters and statistics", 102_441_032, 102_441_032),
    Row("ResNet50", "momentum", 102_228_128, 102_228_128),
    Row("ResNet50", "inputs", 19_395_584, 19_395_584),
    Row("ResNet50", "peak without workspaces, in blocks", 3_004_057_832, 3_002_878_184),
    Row("ResNet18", "peak allocated, rounded down", 252 << 20, 245 << 20),
]


def in_blocks(footprint: Footprint, snapshot: Path) -> int:
    """Return the peak without workspaces as that profiler counts: tensors that were there before its first step by
    what they hold, everything else by the blocks that the allocator hands out.
    """
    run = recorded_run(footprint, snapshot, {})
    allocator, living = Allocator(AllocatorSettings(), None), {}
    peak_bytes = counted_bytes = 0
    workspace_bytes = np.diff(footprint.kept_timeline.live_bytes["workspace"])
    for event, grown_bytes in zip(run.events, workspace_bytes, strict=True):
        if event.action == "free":
            block, bytes_of_it = living.pop(event.block)
            allocator.free(block)
            counted_bytes -= bytes_of_it
            continue
        block = allocator.allocate(event.bytes, 0)
        from_before = event.phase in ("prepare", "optimizer")
        living[event.block] = block, 0 if grown_bytes else event.bytes if from_before else block.bytes
        counted_bytes += living[event.block][1]
        peak_bytes = max(peak_bytes, counted_bytes)
    return peak_bytes


QUANTITIES = {
    "peak requested": lambda footprint, _: footprint.peak_requested_bytes,
    "peak reserved": lambda footprint, _: footprint.peak_reserved_bytes,
    "peak allocated, rounded down": lambda footprint, _: footprint.peak_allocated_bytes >> 20 << 20,
    "parameters and statistics": lambda footprint, _: sum(
        footprint.categories_at_peak[name] for name in ("parameters", "buffers")
    ),
    "momentum": lambda footprint, _: footprint.categories_at_peak["optimizer state"],
    "inputs": lambda footprint, _: footprint.categories_at_peak["inputs"],
    "peak without workspaces, in blocks": in_blocks,
}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_virtual_gpu_against_a_card(workload: str, prober: Prober, tmp_path: Path):
    step, gpu, steps = WORKLOADS[workload]
    snapshot = tmp_path / "snapshot.pickle"
    footprint = prober.measure(step, gpu, steps=steps, least_budget=False, timeline=True, snapshot=snapshot)
    rows = [row for row in ROWS if row.workload == workload]
    assert {row.quantity: QUANTITIES[row.quantity](footprint, snapshot) for row in rows} == {
        row.quantity: row.our_bytes for row in rows
    }


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_table_of_the_documents(row: Row):
    difference = row.our_bytes / row.card_bytes - 1
    shown = "equal" if row.our_bytes == row.card_bytes else f"{100 * difference:+.2f} %"
    line = f"| {row.workload} | {row.quantity} | {row.card_bytes:,} | {row.our_bytes:,} | {shown} |"
    assert line in TRUST


def test_the_table_has_no_other_rows():
    table = TRUST.partition("| workload | quantity |")[2].partition("\n\n")[0]
    assert table.count("\n| ") == len(ROWS)
