"""Runs that nobody trained: written through the real folders, with every nasty case a report can meet."""

import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from profl.bench.cell import Cell, Recipe
from profl.bench.fleet import UNLIMITED
from profl.bench.memory.footprint import Environment
from profl.bench.results import CellFolder, Run, mean_of_last_tests, read_run

MIB = 2**20
METHODS = ("fedavg", "exclusive", "allsmall", "heterofl", "depthfl", "inclusivefl", "profl")
TIERS = {"20%": 0.2, "35%": 0.35, "50%": 0.5, "75%": 0.75, "100..500MiB": 1.1}
FULL = 264 * MIB

# Task, least budget as a share of the full model's.
TASKS = {
    "fedavg": [("width 1.0", 1.0)],
    "exclusive": [("width 1.0", 1.0)],
    "allsmall": [("width 1.0", 1.0), ("width 0.5", 0.56), ("width 0.25", 0.33), ("width 0.125", 0.19)],
    "heterofl": [("width 1.0", 1.0), ("width 0.5", 0.56), ("width 0.25", 0.33), ("width 0.125", 0.19)],
    "depthfl": [("depth 4", 1.31), ("depth 3", 1.12), ("depth 2", 0.8), ("depth 1", 0.49)],
    "inclusivefl": [("depth 4", 1.0), ("depth 3", 0.87), ("depth 2", 0.66), ("depth 1", 0.42)],
    "profl": [
        ("shrink 4", 0.45), ("shrink 3", 0.26), ("shrink 2", 0.27), ("shrink 1", 0.43),
        ("distil 4", 0.31), ("distil 3", 0.22),
        ("grow 1", 0.43), ("grow 2", 0.27), ("grow 3", 0.26), ("grow 4", 0.45),
    ],
}  # fmt: skip
PHASES = ["shrink 4/4", "shrink 3/4", "shrink 2/4", "grow 1/4", "grow 2/4", "grow 3/4", "grow 4/4"]

ACCURACY = {
    "fedavg": [0.962] * 5,
    "exclusive": [0.1, 0.1, 0.1, 0.871, 0.951],
    "allsmall": [0.742, 0.742, 0.803, 0.803, 0.933],
    "heterofl": [0.742, 0.748, 0.829, 0.9, 0.951],  # equals allsmall at 20% and exclusive at the last tier
    "depthfl": [0.1, 0.1, 0.688, 0.852, 0.931],
    "inclusivefl": [0.1, 0.1, 0.801, 0.871, 0.944],
    "profl": [0.1, 0.899, 0.921, 0.938, 0.951],
}


OPERATIONS = dict.fromkeys(METHODS, 4 * 10**9) | {"profl": 2 * 10**9}
"""Of a round's local training."""


def movement(since: int) -> dict[str, float]:
    """Return made-up diagnostics of the round that is so many rounds into its step."""
    return {
        "effective_movement": math.nan if since < 2 else 1 / since,
        "movement_slope": math.nan if since < 3 else -1 / since,
        "would_freeze": float(since >= 4),
    }


def footprint(task: str, share: float, method: str) -> dict:
    """Return a made-up entry of ``footprints.json``."""
    peak = int(share * FULL * 0.93)
    parts = {
        "parameters": 0.16, "gradients": 0.15, "optimizer state": 0.08, "buffers": 0.001, "inputs": 0.006,
        "activations": 0.42 if method != "profl" else 0.3, "workspace": 0.06,
    }  # fmt: skip
    categories = {name: int(peak * part) for name, part in parts.items()}
    categories["temporaries"] = peak - sum(categories.values())
    return {
        "task": task,
        "batch_size": 32,
        "gpu": "virtual:jetson-orin",
        "key": f"{method}/{task}",
        "peak_requested_bytes": peak,
        "peak_allocated_bytes": int(peak * 1.02),
        "peak_reserved_bytes": int(peak * 1.06),
        "peak_activation_bytes": int(peak * 0.45),
        "parameter_bytes": categories["parameters"],
        "least_budget_bytes": int(share * FULL),
        "categories_at_peak": categories,
        "largest_blocks": [{"bytes": 12, "category": "activations"}],
        "steps": 3,
        "nvml_used_bytes": None,
        "environment": asdict(
            Environment("virtual:jetson-orin", "virtual jetson-orin", True, 8 << 30, "2.11", "13", "9", "default")
        ),
    }


def write_cell(
    path: Path,
    method: str,
    tier: str,
    seed: int = 0,
    rounds: int = 60,
    status: str = "done",
    model: str = "resnet18",
    trained_to: float | None = None,
    like: str | None = None,
    tier_file: str | None = None,
) -> None:
    """Write one cell as the harness does.

    ``trained_to`` is its accuracy in place of the table's; a method that the tables lack is ``like`` one of theirs.
    One like fedavg ignores memory, and has the same cell whatever the tier. ``tier_file`` is the tier's name in the
    cell, of a file that is gone.
    """
    name, method = method, like or method
    given, tier = (tier, UNLIMITED) if method == "fedavg" else (tier, tier)
    draw = random.Random(f"{name} {tier} {seed}")
    place = list(TIERS).index(given)
    final = ACCURACY[method][place]
    final = trained_to or (final if final == 0.1 else final + 0.012 * seed * (0.5 - draw.random()))
    recipe = Recipe(rounds=rounds, devices=20, participants=4)
    listed = [int(TIERS[tier] * FULL)] * 20 if tier_file else None
    gpu = "virtual:jetson-orin"
    cell = Cell(name, model, 16, "digits", tier_file or tier, seed, gpu, recipe=recipe, listed_budgets=listed)
    folder = CellFolder(path / "cells" / cell.folder_name)
    folder.begin(cell.to_dict())
    folder.enter({"torch": "2.11"}, 0)
    folder.write_footprints([footprint(task, share, name) for task, share in TASKS[method]])
    idle = final == 0.1
    share = 0.0 if idle else 1.0 if method in ("fedavg", "allsmall", "profl") else (0, 0.1, 0.457, 0.8, 1)[place]
    share = 0.07 if (method, tier) == ("heterofl", "20%") else share
    finished = rounds if status == "done" else 0 if status == "waiting" else rounds // 3
    before, since = "", 0
    for number in range(1, finished + 1):
        accuracy = 0.1 + (final - 0.1) * (1 - math.exp(-6 * number / rounds)) / (1 - math.exp(-6))
        if number > rounds - 10:  # the last five tests
            accuracy = final
        elif not idle:
            accuracy = min(accuracy + 0.03 * (draw.random() - 0.5), 1)
        phase = PHASES[number * 7 // (rounds + 1)] if method == "profl" else "train"
        since = since + 1 if phase == before else 1
        before = phase
        folder.append_round(
            {
                "round": number,
                "phase": phase,
                "tasks": {} if idle else {TASKS[method][-1][0]: 4},
                "train_loss": math.nan if idle else 1 / number,
                "test_loss": 1 - accuracy,
                "test_accuracy": accuracy if number % 2 == 0 or number == 1 else math.nan,
                "gradient_norm": 1 / since if number % 2 == 0 and not idle else math.nan,
                "participants": 0 if idle else 4,
                "eligible_devices": round(20 * share),
                "devices_out_share": 1 - share,
                "data_out_share": 1 - share,
                "classes_out_share": 0.0,
                "uploaded_bytes": 0 if idle else 10**6,
                "downloaded_bytes": 0 if idle else 10**6,
                "operations": 0 if idle else OPERATIONS[method],
                "diagnostics": movement(since) if method == "profl" else {},
                "seconds": 0.5,
            },
            {"round": number},
        )
    if status == "failed":
        folder.fail("Traceback: out of memory")
    if status == "done":
        fitting = [task[1] for task in TASKS[method] if task[1] <= max(TIERS[given], 0.19)]
        tested = [row["test_accuracy"] for row in folder.rounds() if row["test_accuracy"] is not None]
        operations = sum(row["operations"] for row in folder.rounds())
        dearest = TASKS[method][0][1] if method == "fedavg" else max(fitting, default=math.nan)
        folder.finish(
            {
                "last_five_accuracy": mean_of_last_tests(tested),
                "final_accuracy": tested[-1],
                "best_accuracy": final,
                "best_round": rounds,
                "participation_share": share,
                "data_out_share": 1 - share,
                "classes_out_share": 0.0,
                "uploaded_bytes": 0 if idle else rounds * 10**6,
                "downloaded_bytes": 0 if idle else rounds * 10**6,
                "operations": operations,
                "seconds": rounds / 2,
                "full_model_least_budget_bytes": FULL,
                "dearest_trained_budget_bytes": math.nan if idle else dearest * FULL,
                "mean_device_budget_bytes": math.nan if tier == UNLIMITED else TIERS[tier] * FULL,
            }
        )


def beyond_the_sheet(figure: Figure) -> Iterator[Artist]:
    """Yield the parts of a figure that are not all on it: axes with all that is written beside them, legends, texts."""
    sheet, hair = figure.bbox, 0.01 * figure.dpi
    for part in [*figure.axes, *figure.legends, *(text for text in figure.texts if text.get_text())]:
        box = part.get_tightbbox()
        assert box is not None
        across = sheet.x0 - hair <= box.x0 <= box.x1 <= sheet.x1 + hair
        if not across or not sheet.y0 - hair <= box.y0 <= box.y1 <= sheet.y1 + hair:
            yield part


@pytest.fixture(autouse=True, scope="session")
def _do_not_wait_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


def write_run(path: Path, rounds: int = 60, seeds: int = 1, troubles: bool = True) -> Path:
    """Write a run of all methods and tiers.

    With ``troubles``, depthfl failed at 75%, inclusivefl was stopped at the last tier and allsmall was not
    begun at 50%; exclusive and depthfl trained nobody in the poorest tiers in any case.
    """
    trouble = {
        ("depthfl", "75%"): "failed",
        ("inclusivefl", "100..500MiB"): "stopped",
        ("allsmall", "50%"): "waiting",
    }
    for seed in range(seeds):
        for method in METHODS:
            for tier in list(TIERS)[:1] if method == "fedavg" else TIERS:
                status = trouble.get((method, tier), "done") if troubles and seed == 0 else "done"
                write_cell(path, method, tier, seed, rounds, status)
    return path


@pytest.fixture(scope="session")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one seed, with troubles."""
    return write_run(tmp_path_factory.mktemp("run"), rounds=30)


@pytest.fixture(scope="session")
def run(run_path: Path) -> Run:
    """The same, read back."""
    return read_run(run_path)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Write the given cells (keywords of ``write_cell``) into a fresh run and read it back."""

    def make(*cells: dict) -> Run:
        for cell in cells:
            write_cell(tmp_path, **cell)
        return read_run(tmp_path)

    return make
