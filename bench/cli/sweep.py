"""``profl sweep``: run methods over memory tiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profl.bench.cli.imports import spare_imports
from profl.bench.cli.options import (
    OneOf,
    cells_option,
    chosen_sweep,
    engine_options,
    instructions_option,
    several,
    started_prober,
    sweep_options,
    workers_option,
)
from profl.bench.cli.running import WHOLE, carry_out, chosen_engine, refuse_incomplete
from profl.bench.cli.stopping import if_stopped
from profl.bench.cli.sweep_output import print_forecasts
from profl.bench.cli.volume import progress_console, quiet_option, verbose_option

if TYPE_CHECKING:
    from profl.bench.config import Config

TOOLS = ("tensorboard", "wandb", "mlflow")
"""As `profl.bench.tracking` has them, which takes seconds to import."""


@click.command()
@sweep_options
@click.option(
    "--memory-only",
    is_flag=True,
    help="Train on the virtual GPU, which computes nothing: memory by round only.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Measure, and print what the sweep will take; nothing is trained or written.",
)
@click.option("--json", "as_json", is_flag=True, help="Print events to stdout, one JSON object a line.")
@several("--log-to", "Write rounds and results to a tool too, a run for every cell.", OneOf(TOOLS))
@quiet_option
@verbose_option("Also print a line for every measured cell and every round.")
@instructions_option
@engine_options
@workers_option
@cells_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: results/run-NAME, by the preset or file and what is given beside]",
)
def sweep(
    engine: str,
    address: str | None,
    workers: int | None,
    cells: slice | None,
    output: Path | None,
    as_json: bool,
    dry_run: bool,
    log_to: tuple[str, ...],
    **given: Any,
) -> None:
    """Run methods over memory tiers; run again to finish what is missing.

    Values given here replace those of the preset or file. Methods that are given here are shown in that order.

    \b
    Examples:
      profl sweep --preset smoke
      profl sweep --preset default --method profl --method heterofl --tier 50% --output results/mine
      profl sweep --config my-study.toml --workers 8
      profl sweep --method profl --option profl.shrinking=false --output results/no-shrinking
      profl sweep --dataset imagefolder --data ~/pictures --tier 100..900MB
      profl sweep --memory-only --method profl --tier 80% --rounds 300
      profl sweep --preset paper-shards --dry-run
      profl sweep --config my-study.toml --engine ray --address head:6379
      profl sweep --config my-study.toml --cells 3/8 --output /shared/run
      profl sweep --preset smoke --log-to tensorboard --log-to mlflow
      profl sweep --preset smoke --json | jq -c 'select(.event == "finished")'
    """
    source, name, chosen = chosen_sweep(**given)
    run = output or Path("results") / f"run-{name}"
    prober = started_prober(chosen.gpu, ahead=dry_run or not run.exists())  # before the imports that take long
    from profl.bench.config import experiments
    from profl.bench.report import View, closing_table, write_report
    from profl.bench.report.appearance import Appearance
    from profl.bench.results import read_run
    from profl.bench.results.folder import folder_of
    from profl.bench.terminal import Terminal

    spare_imports()
    possible, part = experiments(chosen), cells or WHOLE
    if dry_run:
        with if_stopped("nothing was trained, and nothing of a dry run is kept: run the same command to begin again"):
            print_forecasts(possible[part], prober, workers, as_json)
        return
    tell_untuned(chosen, source)
    order = dict.fromkeys(one.cell.contender for one in possible) if given["method"] else ()
    view = View(appearance=Appearance(order=tuple(order)))
    runner = chosen_engine(engine, address, workers)
    progress = carry_out(possible, run, runner, prober, as_json, log_to, part)
    if cells:
        refuse_incomplete(progress, len(possible[part]), run)
        done = sum(folder_of(one.cell, run).status == "done" for one in possible)
        whole = done == len(possible)
        told = f"all {done} cells of the grid" if whole else f"{done} of the grid's {len(possible)} cells"
        then = "draw them" if whole else "when all are, draw them"
        click.echo(f"{told} are done; {then}: profl report {run}", err=True)
        return
    with if_stopped(f"the cells are kept in {run}, their report may not be whole: 'profl report {run}' draws it"):
        results = read_run(run)
        written = write_report(results, None, view)
        if not as_json:
            Terminal().print(closing_table(results, view))
    progress_console().print(f"{len(written)} figures and tables in {written[0].parent}", highlight=False)
    refuse_incomplete(progress, len(possible), run)


def tell_untuned(chosen: Config, source: str) -> None:
    """Warn of methods that were given no learning rate of their own beside others that were."""
    untuned = [method for method in chosen.grid.method if method not in chosen.learning_rates]
    if chosen.learning_rates and untuned:
        click.echo(
            f"note: {', '.join(untuned)} will train at the recipe's learning rate, {chosen.recipe.learning_rate:g}, "
            f"others at rates tuned for them ('profl tune' finds one; [learning_rates] of '{source}' keeps it)",
            err=True,
        )
