"""The command line: ``profl sweep | measure | fit | report | check | list | doctor``."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.errors import InputError, in_one_line
from bench.memory.allocator_settings import AllocatorSettings
from bench.memory.footprint import Footprint
from bench.memory.gpu.profile import Profile
from bench.memory.workload import CATEGORIES

if TYPE_CHECKING:
    from bench.training import TrainingWorkload

T = TypeVar("T")
REFERENCE = Path("results/reference")
TASKS_PER_TABLE = 5
PEAKS = {
    "peak requested": "peak_requested_bytes",
    "peak allocated": "peak_allocated_bytes",
    "peak reserved": "peak_reserved_bytes",
    "least budget": "least_budget_bytes",
    "peak activations": "peak_activation_bytes",
}
"""Rows below the categories, and the footprint's attributes."""


def several(flag: str, text: str, kind: Any = str, **more: Any) -> Callable[[Any], Any]:
    """Return an option that may be given several times."""
    return click.option(flag, multiple=True, type=kind, help=text + " May be repeated.", **more)


def task_options(methods: str, batch_size: int, batch_text: str) -> Callable[[Any], Any]:
    """Return the options that choose tasks to measure; the texts and the default say what a command does with them."""
    options = [
        several("--method", methods + "  [default: all]"),
        click.option("--model", default="resnet18", show_default=True, help="The network."),
        click.option("--width", type=int, default=64, show_default=True, help="Channels of its first stage."),
        click.option("--batch-size", type=int, default=batch_size, show_default=True, help=batch_text),
        click.option("--dataset", default="cifar10", show_default=True, help="Decides the number of classes."),
        click.option("--data", type=click.Path(), help="Folder of the dataset, for imagefolder."),
        click.option("--rounds", type=int, default=1000, show_default=True, help="Round budget that schedules see."),
        click.option("--gpu", default="virtual:h100", show_default=True, help="cuda or virtual:NAME."),
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _chosen_workloads(
    method: tuple[str, ...], rounds: int, batch_size: int, **shape: Any
) -> dict[tuple[str, str], TrainingWorkload]:
    """Return the steps that `task_options` chose, by method and task."""
    from bench.cell import Cell, Recipe
    from bench.fleet import UNLIMITED
    from bench.registry import methods
    from bench.sweep import workloads

    recipe = Recipe(rounds=rounds, batch_size=batch_size)
    return {
        (name, task): workload
        for name in method or sorted(methods())
        for task, workload in workloads(Cell(method=name, tier=UNLIMITED, seed=0, recipe=recipe, **shape)).items()
    }


def _tracked(entries: Collection[T], text: str) -> Iterable[T]:
    """Return the entries, with a progress bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    return track(entries, text, console=console, transient=True, disable=not console.is_terminal)


class Friendly(click.Group):
    """A group whose commands end Ctrl-C, bad input, and files that cannot be read or written, with one line."""

    def invoke(self, ctx: click.Context) -> Any:
        from pydantic import ValidationError

        from bench.memory.errors import GpuUnavailable, MeasurementFailed
        from bench.validation import describe

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise SystemExit(130) from None
        except ValidationError as error:
            raise click.ClickException(describe(error)) from error
        except (InputError, GpuUnavailable, MeasurementFailed) as error:
            raise click.ClickException(in_one_line(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error


@click.group(cls=Friendly, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="profl")
def main() -> None:
    """Measured training memory of ProFL and its rivals in memory-constrained federated learning.

    \b
    Examples:
      profl sweep --preset smoke
      profl measure --method profl --model resnet18 --batch-size 64 --gpu virtual:h100
      profl fit --budget 256MiB --gpu virtual:jetson-orin
      profl report results/default
      profl check
    """


@main.command()
@click.option("--preset", help="A configuration that comes with profl: see 'profl list'.  [default: default]")
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file of your own instead of a preset.")
@several("--method", "Methods to run.")
@several("--model", "Models to train.")
@several("--width", "Channels of the model's first stage.", int)
@several("--dataset", "Datasets.")
@several("--tier", "Memory tiers: 512MiB, 50%, 100..900MB, 20%..120% or a file.")
@several("--seed", "Seeds.", int)
@click.option("--rounds", type=int, help="Round budget of every run.")
@click.option("--batch-size", type=int, help="Largest local batch.")
@click.option("--gpu", help="Where memory is measured: cuda or virtual:NAME.")
@click.option("--data", type=click.Path(), help="Folder of the dataset (imagefolder, cifar10, cifar100).")
@click.option("--workers", type=click.IntRange(1), help="Processes, one torch thread each.  [default: cores]")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the run.  [default: results/run-NAME]")
def sweep(preset: str | None, config: Path | None, workers: int | None, output: Path | None, **given: Any) -> None:
    """Run methods over memory tiers; run again to finish what is missing.

    Values given here replace those of the preset or file.

    \b
    Examples:
      profl sweep --preset smoke
      profl sweep --preset default --method profl --method heterofl --tier 50% --output results/mine
      profl sweep --config my-study.toml --workers 8
      profl sweep --dataset imagefolder --data ~/pictures --tier 100..900MB
    """
    from bench.memory.probe import Prober
    from bench.progress import SweepProgress
    from bench.report import closing_table, write_report
    from bench.results import cell_folders, check_one_recipe, read_run
    from bench.sweep import GRID, cells, folder_of, override, presets, read_config, run_sweep

    if preset and config:
        raise click.UsageError("give either --preset or --config")
    if config is None:
        from bench.registry import unknown

        name = preset or "default"
        if name not in presets():
            unknown("preset", name, presets())
        config = presets()[name]
    chosen = override(read_config(config), {axis: given.pop(axis) for axis in GRID}, **given)
    todo = cells(chosen)
    run = output or Path("results") / f"run-{config.stem}"
    console = Console(stderr=True)
    for cell in todo:
        folder_of(cell, run).check()
    check_one_recipe(run, [*(folder.cell() for folder in cell_folders(run)), *todo])
    missing = [cell for cell in todo if folder_of(cell, run).status != "done"]
    finished = sum(len(folder_of(cell, run).rounds()) for cell in missing)
    console.print(f"{len(todo)} cells in {run}, {len(todo) - len(missing)} of them done already", highlight=False)
    with Prober() as prober, SweepProgress(missing, finished, console) as progress:
        try:
            run_sweep(missing, run, workers or os.cpu_count() or 1, prober, progress)
        except KeyboardInterrupt:
            console.print(f"stopped; finished rounds are kept in {run}: run the same command to go on")
            raise SystemExit(130) from None
    results = read_run(run)
    written = write_report(run)
    Console().print(closing_table(results))
    console.print(f"{len(written)} figures and tables in {written[0].parent}", highlight=False)
    if progress.failures:
        raise click.ClickException(
            f"{len(progress.failures)} of {len(todo)} cells failed; see error.txt in their folders under {run}/cells"
        )


@main.command()
@task_options("Methods whose tasks are measured.", 64, "Pictures in a batch.")
@several("--task", "Only these tasks, as the table names them.")
@click.option("--plot", type=click.Path(path_type=Path), help="Folder for timeline plots, one per task.")
@click.option("--snapshot", type=click.Path(path_type=Path), help="Folder for PyTorch snapshots (memory_viz).")
@click.option("--trace", type=click.Path(path_type=Path), help="Folder for Chrome and Perfetto traces, one per task.")
@several("--what-if", "Also replay every task under these allocator settings, as PYTORCH_ALLOC_CONF takes them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def measure(
    method: tuple[str, ...],
    model: str,
    width: int,
    batch_size: int,
    dataset: str,
    data: str | None,
    rounds: int,
    gpu: str,
    task: tuple[str, ...],
    plot: Path | None,
    snapshot: Path | None,
    trace: Path | None,
    what_if: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the memory of every task of a method: one local training step, byte for byte.

    \b
    Examples:
      profl measure --method profl --gpu virtual:h100
      profl measure --method fedavg --model resnet34 --batch-size 64 --plot plots/
      profl measure --method heterofl --task "subnetwork 1/4 scaled" --gpu cuda --snapshot snapshots/
      profl measure --method fedavg --what-if expandable_segments:True --what-if max_split_size_mb:32
      profl measure --method profl --json > footprints.json
    """
    from bench.memory.plot import write_timeline
    from bench.memory.probe import Prober
    from bench.registry import unknown

    shape: dict[str, Any] = {"model": model, "width": width, "dataset": dataset, "gpu": gpu}
    wanted = _chosen_workloads(method, rounds, batch_size, data=data, **shape)
    for key in task:
        if key not in {known for _, known in wanted}:
            unknown("task", key, {known for _, known in wanted})
    wanted = {pair: workload for pair, workload in wanted.items() if not task or pair[1] in task}
    settings = {text: AllocatorSettings.parse(text) for text in what_if}
    measured, replayed = [], {}
    with Prober() as prober, TemporaryDirectory() as scratch:
        for (name, key), workload in _tracked(wanted.items(), "measuring"):
            folder = snapshot or (Path(scratch) if settings else None)
            shot = folder and _task_file(folder, name, key, ".pickle")
            footprint = prober.measure(workload, gpu, timeline=bool(plot or trace), snapshot=shot)
            measured.append((name, key, footprint))
            if plot:
                write_timeline(footprint, _task_file(plot, name, key, ".png"))
            if trace:
                footprint.write_trace(_task_file(trace, name, key, ".json"))
            if shot and settings:
                replayed[name, key] = _peaks_under(settings, shot)
    if as_json:
        tasks = [
            {"method": name, "task": key, **footprint.to_dict(attribution=True), **replayed.get((name, key), {})}
            for name, key, footprint in measured
        ]
        click.echo(json.dumps({**shape, "batch_size": batch_size, "tasks": tasks}))
        return
    device = measured[0][2].environment.device_name
    console = Console()
    console.print(f"{model} width {width}, batch {batch_size}, measured on {device}", highlight=False)
    for table in _footprint_tables(measured, replayed):
        console.print(table)
    console.print("Categories are those of the requested peak and sum to it exactly. ? is unknown.", highlight=False)
    for name, key, footprint in measured:
        for line in _remarks(footprint):
            console.print(f"{name}, {key}: {line}", highlight=False, markup=False, soft_wrap=True)
    if plot is not None:
        click.echo(f"{len(measured)} timelines in {plot}")


def _remarks(footprint: Footprint) -> Iterator[str]:
    """Say where the peak is reached, and what could not be modelled."""
    peak = footprint.peak_position
    if peak is not None:
        yield f"peak in step {peak.step}, {peak.phase}, in {peak.module or '?'} by {peak.operator or '?'}"
    yield from (f"careful: {caveat}" for caveat in footprint.caveats)


def _task_file(folder: Path, method: str, task: str, ending: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (re.sub(r"[^A-Za-z0-9]+", "-", f"{method} {task}") + ending)


def _peaks_under(settings: Mapping[str, AllocatorSettings], snapshot: Path) -> dict[str, int]:
    """Return what a recorded task would have reserved under other allocator settings, by the table's row."""
    from bench.memory.allocator import recorded_trace, replay

    trace = recorded_trace(pickle.loads(snapshot.read_bytes())["device_traces"])
    return {f"reserved if {text}": replay(trace, chosen).peak_reserved_bytes for text, chosen in settings.items()}


def _footprint_tables(
    measured: list[tuple[str, str, Footprint]], replayed: Mapping[tuple[str, str], Mapping[str, int]]
) -> Iterator[Table]:
    """Return tables narrow enough for a terminal: a column per task, a row per category and peak."""
    for method, entries in groupby(measured, key=lambda entry: entry[0]):
        for part in _batched(((task, footprint) for _, task, footprint in entries), TASKS_PER_TABLE):
            table = Table(title=method, box=box.SIMPLE_HEAD, pad_edge=False)
            table.add_column("MiB", no_wrap=True)
            for task, _ in part:
                table.add_column(task, justify="right", min_width=8)
            rows = list(_footprint_rows([footprint for _, footprint in part]))
            for name in replayed.get((method, part[0][0]), {}):
                rows.append((name, [replayed[method, task][name] for task, _ in part]))
            for name, row in rows:
                cells = ["?" if size is None else f"{size / 2**20:.1f}" for size in row]
                style = None if name in CATEGORIES else "bold"
                table.add_row(name, *cells, style=style, end_section=name == CATEGORIES[-1])
            yield table


def _batched(entries: Iterable[T], size: int) -> Iterator[list[T]]:
    """Return the entries in lists of ``size``, the last one shorter. Python 3.12 has it as ``itertools.batched``."""
    rest = iter(entries)
    while part := list(islice(rest, size)):
        yield part


def _footprint_rows(footprints: list[Footprint]) -> Iterator[tuple[str, list[int | None]]]:
    for category in CATEGORIES:
        yield category, [footprint.categories_at_peak[category] for footprint in footprints]
    for name, attribute in PEAKS.items():
        yield name, [getattr(footprint, attribute) for footprint in footprints]


@main.command()
@several("--budget", "GPU memory to train in, such as 256MiB.", required=True)
@task_options("Methods whose tasks are tried.", 256, "The largest batch to try.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def fit(
    budget: tuple[str, ...],
    method: tuple[str, ...],
    model: str,
    width: int,
    batch_size: int,
    dataset: str,
    data: str | None,
    rounds: int,
    gpu: str,
    as_json: bool,
) -> None:
    """Say which tasks of a method train in a given memory, and the largest batch of each.

    Every batch is run for ten steps under a real limit. The answer ran, and every larger batch that was tried
    failed: the next 8, every power of two and the largest to try.

    \b
    Examples:
      profl fit --budget 256MiB --gpu virtual:jetson-orin
      profl fit --budget 64MiB --budget 256MiB --method profl --method heterofl --model resnet34
      profl fit --budget 2GiB --batch-size 1024 --json > fit.json
    """
    from bench.fit import fit as fit_task
    from bench.fit import fit_table, guarantee, read_budgets
    from bench.memory.probe import Prober

    budgets = read_budgets(budget, gpu)
    shape: dict[str, Any] = {"model": model, "width": width, "dataset": dataset, "gpu": gpu}
    wanted = _chosen_workloads(method, rounds, batch_size, data=data, **shape)
    with Prober() as prober:
        fits = [fit_task(workload, gpu, budgets, prober) for workload in _tracked(wanted.values(), "trying batches")]
    if as_json:
        click.echo(json.dumps({**shape, "batch_size": batch_size, "tasks": [task.to_dict() for task in fits]}))
        return
    console = Console()
    console.print(f"{model} width {width}, batches up to {batch_size} in the memory of {gpu}", highlight=False)
    console.print(fit_table(fits, budgets, batch_size))
    console.print(guarantee(batch_size), highlight=False)


@main.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder to write into.  [default: report/ in the last RUN]"
)
def report(runs: tuple[Path, ...], output: Path | None) -> None:
    """Draw a run's figures, tables and page from its result files; compare several runs with the first.

    \b
    Examples:
      profl report results/default
      profl report results/mine --output figures/
      profl report results/torch-2.14 results/torch-2.15
    """
    from bench.report import closing_table, write_comparison, write_report
    from bench.results import read_run

    if len(runs) > 1:
        page = (output or runs[-1] / "report") / "comparison.html"
        click.echo(write_comparison([read_run(run) for run in runs], page))
        return
    results = read_run(runs[0])
    for path in write_report(runs[0], output):
        click.echo(path)
    Console().print(closing_table(results))


@main.command()
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    default=REFERENCE,
    show_default=True,
    help="Folder of the committed memory numbers.",
)
@click.option("--update", is_flag=True, help="Accept the measured numbers: rewrite the reference.")
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the result to this file, as JUnit XML.")
def check(reference: Path, update: bool, junit: Path | None) -> None:
    """Compare every footprint of the default sweep with the reference, to the byte.

    Lists changed, added and missing entries and exits non-zero on any. In GitHub Actions each is also an annotation.

    \b
    Examples:
      profl check
      profl check --junit memory.xml
      profl check --update
    """
    from bench.memory.probe import Prober
    from bench.regression import (
        REFERENCE_FILE,
        compare,
        github_annotation,
        measure_all,
        read_reference,
        write_junit,
        write_reference,
    )
    from bench.sweep import presets, read_config

    config = read_config(presets()["default"])
    known = None if update and not (reference / REFERENCE_FILE).exists() else read_reference(reference)
    with Prober() as prober:
        measured = measure_all(config, prober)
    differences = compare(known, measured) if known else []
    for difference in differences:
        click.echo(difference)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            click.echo(github_annotation(difference))
    if junit:
        write_junit(junit, measured["metrics"], differences)
    if update:
        click.echo(f"{len(measured['metrics'])} entries in {write_reference(reference, measured, known)}")
    elif differences:
        raise click.ClickException(
            f"memory differs from {reference}: accept it with 'profl check --reference {reference} --update'"
        )
    else:
        click.echo(f"{len(measured['metrics'])} entries, all equal to {reference}")


@main.command(name="list")
@click.argument("kind", type=click.Choice(["methods", "models", "datasets", "gpus", "presets"]), required=False)
def list_names(kind: str | None) -> None:
    """Show the names that the other commands take.

    \b
    Examples:
      profl list
      profl list gpus
    """
    from bench.data import DATASETS
    from bench.memory.gpu.profile import known_gpus, profiles
    from bench.registry import MODELS, methods
    from bench.sweep import presets

    names: dict[str, Iterable[str]] = {
        "methods": methods(),
        "models": MODELS,
        "datasets": DATASETS,
        "gpus": known_gpus(),
        "presets": presets(),
    }
    if kind == "gpus":
        click.echo("cuda: this machine's own")
        for profile in profiles():
            major, minor = profile.gpu.capability
            gpu = f"sm_{major}{minor} {profile.gpu.multiprocessors:4} SMs {profile.gpu.total_bytes / 2**30:7.2f} GiB"
            click.echo(f"{profile.name:26}{gpu} ({profile.memory_figure}), {profile.board}: {_memory_source(profile)}")
        click.echo("virtual:sm_XX: any supported compute capability; no board's convolution workspaces")
    elif kind:
        click.echo("\n".join(names[kind]))
    else:
        for group, members in names.items():
            click.echo(f"{group}: {', '.join(members)}")


def _memory_source(profile: Profile) -> str:
    """Return the page that states how much memory the GPU has."""
    return next((page for page, stated in profile.sources.items() if "totalGlobalMem" in stated), "source unknown")


@main.command()
def doctor() -> None:
    """Say what this machine can do, and what is missing for the rest.

    \b
    Example:
      profl doctor
    """
    from bench.doctor import examine

    table = Table("part", "state", "remedy", title="profl doctor")
    findings = examine()
    for finding in findings:
        table.add_row(finding.part, finding.state, finding.remedy or "")
    Console().print(table)
    if any(finding.remedy for finding in findings):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
