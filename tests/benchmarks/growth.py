"""How time and memory grow with a sweep's sizes: ``python -m tests.benchmarks.growth OUTPUT``.

Every point is measured in a process of its own, so that its peak memory is its own. It takes three quarters of an hour.
Run again, it measures what the table lacks. Nothing here is a test: seconds are those of the machine, slopes are the
code's.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from profl.bench.instructions import AVX2, choose

choose(AVX2)  # before torch is imported

# ruff: noqa: E402
import torch

from profl.bench.cell import Recipe
from profl.bench.data import Dataset
from profl.bench.experiment import Experiment
from profl.bench.federation import Federation
from profl.bench.files import replacing
from profl.bench.results.folder import folder_of
from tests.benchmarks.timing import seconds
from tests.conftest import small_cell

COLUMNS = ("axis", "size", "what", "value")
NEVER = 10**6
Point = Iterator[tuple[str, float]]


def made_up(examples: int) -> Dataset:
    """Return a dataset of one picture, as often as wanted: it takes no more memory than one."""
    picture, classes = torch.zeros(1, 3, 32, 32), torch.arange(examples) % 10
    return Dataset("digits", picture.expand(examples, -1, -1, -1), classes, picture, classes[:1], 10, augment=False)


def federation(devices: int, participants: int, width: int = 2, examples: int = 2) -> Federation:
    recipe = Recipe(NEVER, devices, participants, partition="iid", batch_size=16, evaluate_every=NEVER)
    cell = replace(small_cell("heterofl", "1..2GiB", recipe=recipe), width=width)
    experiment = Experiment.of(cell)
    needs = {task.key: place << 30 for place, task in enumerate(reversed(experiment.method().all_tasks()))}
    return Federation(experiment, made_up(devices * examples), needs, 2 << 30)


def rounds_of(fleet: Federation, count: int = 3) -> float:
    """Return the median seconds of a round; the first is not counted, as it builds what later ones have."""
    numbers = iter(range(1, NEVER))
    fleet.run_round(next(numbers))
    return statistics.median(seconds(lambda: fleet.run_round(next(numbers))) for _ in range(count))


def devices(size: int) -> Point:
    """Ten of so many devices are drawn and train two examples each; what grows is the bookkeeping."""
    began = time.perf_counter()
    fleet = federation(size, 10)
    yield "set-up seconds", time.perf_counter() - began
    yield "seconds a round", rounds_of(fleet)


def participants(size: int) -> Point:
    """So many of 10,000 devices train a round."""
    yield "seconds a round", rounds_of(federation(10_000, size), 3 if size < 1000 else 1)


def width(size: int) -> Point:
    """Ten devices train a ResNet18 of so many channels on 16 examples each."""
    fleet = federation(10, 10, size, 16)
    yield "parameters", float(sum(value.numel() for value in fleet.method.global_state.values()))
    yield "seconds a round", rounds_of(fleet)


def seeds(size: int) -> Point:
    """A report of 31 cells with 60 rounds each for every seed is drawn from their files."""
    from profl.bench.report import write_report
    from profl.bench.results import read_run
    from tests.report.conftest import write_run

    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder), seeds=size, troubles=False)
        yield "cells", float(len(list((run / "cells").iterdir())))
        yield "seconds to read", seconds(lambda: read_run(run))
        results = read_run(run)
        yield "seconds to draw", seconds(lambda: write_report(results))


def rounds(size: int) -> Point:
    """A cell is trained for so many rounds, one device a round, each kept on disk."""
    from profl.bench.federation import run_cell

    recipe = Recipe(size, 90, 1, partition="iid", batch_size=16, evaluate_every=NEVER)
    cell, took = small_cell(recipe=recipe), []
    with tempfile.TemporaryDirectory() as folder:
        cell_folder = folder_of(cell, Path(folder))
        cell_folder.begin(cell.to_dict())
        run_cell(Experiment.of(cell), cell_folder, {"full model": 1}, 1, lambda row: took.append(time.perf_counter()))
        last = [after - before for before, after in zip(took[-21:-1], took[-20:], strict=True)]
        yield "seconds of a round at the end", statistics.median(last)
        yield "seconds to read", seconds(cell_folder.rounds)


AXES: dict[str, tuple[Callable[[int], Point], list[int], str]] = {
    "devices": (devices, [10, 100, 1000, 10_000, 100_000, 1_000_000], "devices, 10 of which train a round"),
    "participants": (participants, [10, 100, 1000, 10_000], "devices that train a round"),
    "width": (width, [2, 4, 8, 16, 32, 64], "channels of ResNet18"),
    "seeds": (seeds, [1, 2, 4, 7], "seeds of a report, 31 cells each"),
    "rounds": (rounds, [30, 100, 1000, 10_000], "rounds of a cell"),
}


def measure(axis: str, size: int) -> None:
    """Print what was measured, as JSON; the process's largest memory last."""
    torch.set_num_threads(1)
    found = list(AXES[axis][0](size))
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([*found, ("peak bytes of the process", peak_bytes)]))


COLOURS = {"set-up": "#E69F00", "round": "#0072B2", "read": "#009E73", "draw": "#CC79A7", "peak": "#6E6E6E"}
"""By a word in what was measured: a colour means the same in every panel."""


def draw(rows: list[dict[str, Any]], path: Path) -> Any:
    """Draw seconds, both axes logarithmic so that a slope of one is growth in proportion, and below them memory.

    Returns
    -------
    Figure
        As it was written to ``path``.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    figure = Figure(figsize=(13, 6.2), layout="constrained")
    panels = figure.subplots(2, len(AXES), sharey="row", sharex="col")
    for column, (axis, (_, _, label)) in enumerate(AXES.items()):
        for panel, unit in zip(panels[:, column], ("seconds", "peak bytes"), strict=True):
            for what in dict.fromkeys(entry["what"] for entry in rows if entry["axis"] == axis):
                if unit in what:
                    points = [(e["size"], e["value"]) for e in rows if e["axis"] == axis and e["what"] == what]
                    sizes, values = zip(*sorted(points), strict=True)
                    colour = next(colour for word, colour in COLOURS.items() if word in what)
                    panel.plot(sizes, values, "o-", color=colour)
                    if unit == "seconds":
                        rises = values[1] > 1.5 * values[0]  # the label is below, where such a line is not
                        place = {"xytext": (0, -8 if rises else 8), "va": "top" if rises else "bottom"}
                        near = (sizes[0], values[0])
                        panel.annotate(what, near, textcoords="offset points", color=colour, size=9, **place)
            panel.grid(color="0.9")
        panels[0, column].set_title(axis, loc="left", size=11, weight="bold")
        panels[1, column].set_xscale("log")
        panels[1, column].set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize="small", rotation=30)
        panels[1, column].minorticks_off()
        panels[1, column].set_xlabel(label)
    seconds = [entry["value"] for entry in rows if "seconds" in entry["what"]]
    largest = max(entry["value"] for entry in rows if "peak bytes" in entry["what"])
    panels[0, 0].set_yscale("log")
    panels[0, 0].set_ylim(min(seconds) / 4, max(seconds) * 2)
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylim(0, 1.1 * largest)
    panels[1, 0].yaxis.set_major_locator(MultipleLocator(256 * 2**20))
    panels[1, 0].yaxis.set_major_formatter(lambda value, _: f"{value / 2**20:.0f}")
    panels[1, 0].set_ylabel("most memory of the process (MiB)")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of growth.csv and growth.png")
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "SIZE"), help="measure this alone and print it")
    parser.add_argument("--axis", choices=AXES, action="append", help="only this one; several times for several")
    chosen = parser.parse_args()
    if chosen.point:
        return measure(chosen.point[0], int(chosen.point[1]))
    table = chosen.output / "growth.csv"
    rows = list(csv.DictReader(table.open())) if table.exists() else []
    known = {(row["axis"], int(row["size"])) for row in rows}
    chosen.output.mkdir(parents=True, exist_ok=True)
    for axis in chosen.axis or AXES:
        for size in AXES[axis][1]:
            if (axis, size) in known:
                continue
            command = [sys.executable, "-m", "tests.benchmarks.growth", str(chosen.output), "--point", axis, str(size)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            rows += [{"axis": axis, "size": str(size), "what": what, "value": repr(value)} for what, value in found]
            print(axis, size, *(f"{what}: {value:.4g}" for what, value in found), sep=", ", flush=True)
            with replacing(table) as partial, partial.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    numbers = [{**row, "size": int(row["size"]), "value": float(row["value"])} for row in rows]
    draw(numbers, chosen.output / "growth.png")


if __name__ == "__main__":
    main()
