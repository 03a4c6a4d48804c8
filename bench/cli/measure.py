"""``profl measure``: the memory of every task of a method."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from profl.bench.cli.imports import spare_imports
from profl.bench.cli.options import available, chosen_workloads, several, started_prober, task_options, tracked
from profl.bench.cli.own_step import arguments, check_own, measure_own, own_step
from profl.bench.cli.volume import quiet_option, verbose_option, written

if TYPE_CHECKING:
    from profl.bench.memory.replay.settings import AllocatorSettings


OF_TASKS = ("method", "model", "width", "batch_size", "dataset", "data", "rounds", "option", "technique", "task")
"""Options that choose tasks of methods."""


@click.command(name="measure")
@own_step
@arguments
@task_options("Methods whose tasks are measured.", 64, "Pictures in a batch.")
@several("--task", "Only these tasks, as the table names them.")
@click.option("--plot", type=click.Path(path_type=Path), help="Folder for timeline plots, one per task.")
@click.option("--snapshot", type=click.Path(path_type=Path), help="Folder for PyTorch snapshots (memory_viz).")
@click.option("--trace", type=click.Path(path_type=Path), help="Folder for Chrome and Perfetto traces, one per task.")
@several("--what-if", "Also replay every task under these allocator settings, as PYTORCH_ALLOC_CONF takes them.")
@click.option(
    "--against", help="Compare with virtual:auto (the one like --gpu), another GPU, a file of --save, or a snapshot."
)
@click.option("--save", type=click.Path(path_type=Path), help="File (.json, .json.gz) for --against elsewhere.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@quiet_option
@verbose_option("Also say of each task how long it took to measure.")
def measure_command(
    build: str | None,
    argument: tuple[str, ...],
    method: tuple[str, ...],
    model: str,
    width: int,
    batch_size: int,
    dataset: str,
    data: str | None,
    rounds: int,
    option: tuple[str, ...],
    technique: tuple[str, ...],
    gpu: str,
    task: tuple[str, ...],
    plot: Path | None,
    snapshot: Path | None,
    trace: Path | None,
    what_if: tuple[str, ...],
    against: str | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Measure the memory of every task of a method: one local training step, byte for byte, and its operations.

    With FILE.py:FUNCTION (or PACKAGE.MODULE:FUNCTION) a step of your own, as docs/measuring.md shows.

    \b
    Examples:
      profl measure my_model.py:build --gpu t4
      profl measure my_model.py:build --argument layers=12 --plot plots/
      profl measure --method profl --gpu virtual:h100
      profl measure --method fedavg --model resnet34 --batch-size 64 --plot plots/
      profl measure --method heterofl --task "subnetwork 1/4 scaled" --gpu cuda --snapshot snapshots/
      profl measure --method fedavg --what-if expandable_segments:True --what-if max_split_size_mb:32
      profl measure --method profl --gpu cuda --against virtual:auto
      profl measure --method profl --gpu estimate:h100
      profl measure --method profl --gpu cuda --save my-card.json.gz
      profl measure --method profl --gpu virtual:h100 --against my-card.json.gz
      profl measure --method fedavg --gpu virtual:t4 --against snapshot.pickle
      profl measure --method fedavg --technique none --technique checkpoint+micro-batch:4
      profl measure --method profl --json > footprints.json
    """
    from profl.bench.memory.replay.settings import AllocatorSettings

    check_own(build, argument, (*OF_TASKS, "against", "save"))
    gpu = available(gpu)
    settings = {text: AllocatorSettings.parse(text) for text in what_if}
    prober = started_prober(gpu)  # before the imports that take long
    if build:
        under = partial(_peaks_under, settings) if settings else None
        measure_own(build, argument, gpu, prober, plot, snapshot, trace, under, as_json)
        return
    from profl.bench.cli.against import described, other_run
    from profl.bench.cli.measure_output import Result, print_results
    from profl.bench.errors import unknown
    from profl.bench.measuring import measure_step
    from profl.bench.memory.comparison.against import Comparison
    from profl.bench.memory.comparison.measured_run import recorded_run
    from profl.bench.memory.comparison.run_file import check_writable, write_runs
    from profl.bench.memory.gpu.profile import ESTIMATE

    spare_imports()
    shape: dict[str, Any] = {"model": model, "width": width, "dataset": dataset, "gpu": gpu}
    wanted = chosen_workloads(method, option, technique, rounds, batch_size, data=data, **shape)
    for key in task:
        if key not in (known := {step.task.key for step in wanted}):
            unknown("task", key, known)
    wanted = [step for step in wanted if not task or step.task.key in task]
    if save:
        check_writable(save)
    with_events = bool(against or save)
    results = []
    with TemporaryDirectory() as scratch:
        other = other_run(against, gpu, prober) if against else None
        for workload in tracked(wanted, "measuring", lambda step: step.key):
            name, key = workload.technique.label(workload.scope), workload.task.key
            description = described(workload, model, dataset, rounds)
            expected = other and other(workload, description)
            folder = snapshot or (Path(scratch) if settings or with_events else None)
            shot = folder and _task_file(folder, name, key, ".pickle")
            timeline = bool(plot or trace or with_events)
            footprint, operations = measure_step(workload, gpu, prober, timeline=timeline, snapshot=shot)
            run = recorded_run(footprint, shot, description) if shot and with_events else None
            replayed = _peaks_under(settings, shot) if shot else {}
            comparison = Comparison(run, expected) if run and expected else None
            results.append(Result(workload, footprint, operations, replayed, run, comparison))
            if plot:
                footprint.plot(_task_file(plot, name, key, ".png"))
            if trace:
                footprint.write_trace(_task_file(trace, name, key, ".json"))
    runs = [result.run for result in results if result.run]
    if save:
        write_runs(save, runs)
    if as_json:
        tasks = [result.to_dict() for result in results]
        click.echo(json.dumps({**shape, "batch_size": batch_size, "tasks": tasks}))
        return
    how = "not measured but" if gpu.startswith(ESTIMATE) else "measured on"
    device = results[0].footprint.environment.device_name
    print_results(f"{model} width {width}, batch {batch_size}, {how} {device}", results)
    if save:
        written(f"{len(runs)} measured {'run' if len(runs) == 1 else 'runs'} in {save}")
    if plot:
        written(f"{len(results)} {'timeline' if len(results) == 1 else 'timelines'} in {plot}")


def _task_file(folder: Path, method: str, task: str, ending: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (re.sub(r"[^A-Za-z0-9]+", "-", f"{method} {task}") + ending)


def _peaks_under(settings: Mapping[str, AllocatorSettings], snapshot: Path) -> dict[str, int]:
    """Return what a recorded task would have reserved under other allocator settings, by the table's row."""
    from profl.bench.memory.replay.allocator import recorded_trace, replay
    from profl.bench.memory.snapshot.unpickling import read_plain

    trace = recorded_trace(read_plain(snapshot).value["device_traces"])
    return {f"reserved if {text}": replay(trace, chosen).peak_reserved_bytes for text, chosen in settings.items()}
