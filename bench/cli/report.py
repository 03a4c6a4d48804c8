"""``profl report``: figures, tables and pages from result files."""

from __future__ import annotations

from pathlib import Path

import click

from profl.bench.cli.options import OneOf
from profl.bench.cli.running import tell_strays
from profl.bench.cli.stopping import if_stopped


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder to write into.  [default: report/ in the last RUN]"
)
@click.option(
    "--highlight",
    metavar="METHOD",
    help="Method that stands out: bold, and before its rivals.  [default: profl, where it was run]",
)
@click.option(
    "--versus",
    metavar="METHOD",
    help="Method that every other is compared with, seed by seed.  [default: the highlighted one]",
)
@click.option(
    "--axis",
    type=OneOf(["rounds", "operations", "bytes"]),
    default="rounds",
    show_default=True,
    help="What curves are drawn over: rounds, operations of local training, or bytes sent and received.",
)
@if_stopped("the results are as they were, what was drawn may not be whole: run the same command to draw it")
def report(runs: tuple[Path, ...], output: Path | None, highlight: str | None, versus: str | None, axis: str) -> None:
    """Draw a run's figures, tables and page from its result files; compare several runs with the first.

    \b
    Examples:
      profl report results/default
      profl report results/mine --output figures/ --highlight heterofl
      profl report results/mine --versus fedavg --axis operations
      profl report results/torch-2.14 results/torch-2.15
    """
    from profl.bench.environment import mixture
    from profl.bench.report import View, closing_table, write_comparison, write_report
    from profl.bench.results import read_run
    from profl.bench.terminal import Terminal

    for run in runs:
        tell_strays(run)
    if len(runs) > 1:
        page = (output or runs[-1] / "report") / "comparison.html"
        click.echo(write_comparison([read_run(run) for run in runs], page, highlight))
        return
    results = read_run(runs[0])
    trained = [record for record in results.records if not record.cell.memory_only]
    if mixed := mixture(environment for record in trained for environment in record.environments):
        click.echo(f"{runs[0]} holds cells trained by different arithmetic ({mixed}): its page has all", err=True)
    view = View(highlight, versus, axis)
    for path in write_report(results, output, view):
        click.echo(path)
    Terminal().print(closing_table(results, view))
