"""``profl tune``: choose every method's learning rate on held-out data."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Any

import click

from profl.bench.cli.imports import spare_imports
from profl.bench.cli.options import (
    chosen_sweep,
    instructions_option,
    several,
    started_prober,
    sweep_options,
    workers_option,
)
from profl.bench.cli.running import carry_out, chosen_engine, refuse_incomplete
from profl.bench.cli.volume import progress_console, quiet_option, verbose_option


@click.command()
@sweep_options
@several(
    "--learning-rate",
    "A rate to try.  [default: half the recipe's, the same, the double]",
    float,
)
@click.option(
    "--held-out-share",
    type=float,
    default=0.2,
    show_default=True,
    help="Share of the training data that no device gets, and on which is tested.",
)
@quiet_option
@verbose_option("Also print a line for every measured cell and every round.")
@instructions_option
@workers_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the runs.  [default: results/tune-NAME, by the same rule as sweep's]",
)
def tune(
    learning_rate: tuple[float, ...], held_out_share: float, workers: int | None, output: Path | None, **given: Any
) -> None:
    """Choose every method's learning rate by one rule; run again to finish what is missing.

    Runs the sweep once for each rate, into a folder of that name, with a part of the training data held out. A method
    gets the rate with the highest mean, over tiers and seeds, of its accuracy on that part: the mean of the last five
    tests. Of equal rates it gets the smallest. Writes learning_rates.csv, and prints the table [learning_rates] to
    paste into the sweep's TOML file; a rate at the end of those tried is marked: run again with one beyond, into the
    same folder, and all that was tried counts. The test set is not used.

    \b
    Examples:
      profl tune --preset default --seed 1
      profl tune --config my-study.toml --learning-rate 0.005 --learning-rate 0.02 --learning-rate 0.08
      profl tune --config my-study.toml --method profl --tier 80% --rounds 60 --output results/rates
    """
    _, name, config = chosen_sweep(**given)
    folder = output or Path("results") / f"tune-{name}"
    prober = started_prober(config.gpu, ahead=not folder.exists())  # before the imports that take long
    from rich.table import Table

    from profl.bench.config import experiments
    from profl.bench.files import write_whole
    from profl.bench.report.sheets import as_csv
    from profl.bench.terminal import Terminal
    from profl.bench.tuning import at_each_rate, choose, finished, rates_around, scores, table

    spare_imports()
    sweeps = at_each_rate(config, learning_rate or rates_around(config.recipe.learning_rate), held_out_share)
    possible = {rate: experiments(sweep) for rate, sweep in sweeps.items()}
    for rate, wanted in possible.items():
        run = folder / str(rate)
        refuse_incomplete(carry_out(wanted, run, chosen_engine(workers=workers), prober), len(wanted), run)
    found = scores(finished(folder, config, held_out_share))
    choices = choose(found)
    chosen = found["rate"] == found["method"].map(lambda method: choices[method].rate)
    write_whole(folder / "learning_rates.csv", as_csv(found.assign(chosen=chosen)))
    means = found.pivot_table("score", "method", "rate")
    shown = Table("method", *map(str, means), title="mean accuracy on the held-out part, last five tests")
    for method, row in means.iterrows():
        marks = {choices[str(method)].rate: "*"}
        shown.add_row(
            str(method),
            *("–" if isnan(score) else f"{100 * score:.1f}%{marks.get(rate, ' ')}" for rate, score in row.items()),
        )
    Terminal(stderr=True).print(shown)
    progress_console().print(f"every cell's score is in {folder / 'learning_rates.csv'}", highlight=False)
    click.echo(table(choices))
