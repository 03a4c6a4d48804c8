"""``profl sweep``: run methods over memory tiers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from profl.bench.cli.options import available, knobs, named, several
from profl.bench.instructions import AVX2, INSTRUCTIONS, choose


@click.command()
@click.option(
    "--preset",
    help="A configuration that comes with profl: see 'profl list'.  [default: default]",
    **named("presets"),
)
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file of your own instead of a preset.")
@several("--method", "Methods to run.", **named("methods"))
@several("--model", "Models to train.", **named("models"))
@several("--width", "Channels of the model's first stage.", int)
@several("--dataset", "Datasets.", **named("datasets"))
@several("--tier", "Memory tiers: 512MiB, 50%, 100..900MB, 20%..120% or a file.")
@several("--seed", "Seeds.", int)
@click.option("--rounds", type=int, help="Round budget of every run.")
@knobs
@click.option("--batch-size", type=int, help="Largest local batch.")
@click.option("--gpu", help="Where memory is measured: cuda, virtual:NAME or estimate:NAME.", **named("gpus"))
@click.option("--data", type=click.Path(), help="Folder of the dataset (imagefolder, cifar10, cifar100).")
@click.option(
    "--memory-only",
    is_flag=True,
    help="Train on the virtual GPU, which computes nothing: memory by round only.",
)
@click.option("--json", "as_json", is_flag=True, help="Print events to stdout, one JSON object a line.")
@click.option("--workers", type=click.IntRange(1), help="Processes, one torch thread each.  [default: cores]")
@click.option(
    "--instructions",
    type=click.Choice(INSTRUCTIONS),
    default=AVX2,
    show_default=True,
    help="The processor's: avx2 gives the same bits on every x86-64, native on this kind alone.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the run.  [default: results/run-NAME]")
def sweep(
    preset: str | None,
    config: Path | None,
    workers: int | None,
    instructions: str,
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Run methods over memory tiers; run again to finish what is missing.

    Values given here replace those of the preset or file.

    \b
    Examples:
      profl sweep --preset smoke
      profl sweep --preset default --method profl --method heterofl --tier 50% --output results/mine
      profl sweep --config my-study.toml --workers 8
      profl sweep --method profl --option profl.shrinking=false --output results/no-shrinking
      profl sweep --dataset imagefolder --data ~/pictures --tier 100..900MB
      profl sweep --memory-only --method profl --tier 80% --rounds 300
      profl sweep --preset smoke --json | jq -c 'select(.event == "finished")'
    """
    if preset and config:
        raise click.UsageError("give either --preset or --config")
    if notice := choose(instructions):  # before anything imports torch
        click.echo(notice, err=True)
    from rich.console import Console

    from profl.bench.config import GRID, experiments, override, read_config, read_options
    from profl.bench.engine import Engine, InProcess, LocalProcesses
    from profl.bench.environment import mixture, training_environment
    from profl.bench.memory.process.probe import Prober
    from profl.bench.presets import preset as preset_file
    from profl.bench.progress import SweepEvents, SweepProgress
    from profl.bench.report import closing_table, write_report
    from profl.bench.results.folder import cell_folders, folder_of
    from profl.bench.results.record import read_record
    from profl.bench.results.run import check_one_recipe, read_run
    from profl.bench.sweep import run_sweep

    config = config or preset_file(preset or "default")
    grid, options = {axis: given.pop(axis) for axis in GRID}, read_options(given.pop("option"))
    chosen = override(read_config(config), grid, options, **given)
    if not chosen.memory_only:
        chosen = replace(chosen, gpu=available(chosen.gpu))
    possible = experiments(chosen)
    todo = [experiment.cell for experiment in possible]
    run = output or Path("results") / f"run-{config.stem}{'-memory' if chosen.memory_only else ''}"
    workers = workers or os.cpu_count() or 1
    engine: Engine = InProcess() if workers == 1 else LocalProcesses(workers)
    console = Console(stderr=True)
    for cell in todo:
        read_record(folder_of(cell, run))
    check_one_recipe(run, [*(folder.cell() for folder in cell_folders(run)), *todo])
    missing = [cell for cell in todo if folder_of(cell, run).status != "done"]
    finished = sum(len(folder_of(cell, run).rounds()) for cell in missing)
    kept = f", and {finished} rounds of others" if finished else ""
    done = len(todo) - len(missing)
    console.print(
        f"{len(todo)} {'cell' if len(todo) == 1 else 'cells'} in {run}, {done} of them done already{kept}",
        highlight=False,
    )
    listener = SweepEvents() if as_json else SweepProgress(missing, finished, console)
    now = training_environment()
    differences = {folder.path.name: mixture([*folder.environments(), now]) for folder in cell_folders(run)}
    otherwise = {name: difference for name, difference in differences.items() if difference}
    with Prober() as prober, listener as progress:
        if missing and otherwise and not chosen.memory_only:
            progress.trained_otherwise(otherwise)
        try:
            run_sweep(possible, run, engine, prober, progress)
        except KeyboardInterrupt:
            console.print(f"stopped; finished rounds are kept in {run}: run the same command to go on")
            raise SystemExit(130) from None
    results = read_run(run)
    written = write_report(results)
    if not as_json:
        Console().print(closing_table(results))
    console.print(f"{len(written)} figures and tables in {written[0].parent}", highlight=False)
    if progress.failures:
        raise click.ClickException(
            f"{len(progress.failures)} of {len(todo)} cells failed; see error.txt in their folders under {run}/cells"
        )
    if progress.taken:
        raise click.ClickException(
            f"{len(progress.taken)} of {len(todo)} cells were left to another sweep in {run}: run the same command "
            "when it is over, or choose another --output"
        )
