"""``profl report``: figures, tables and pages from result files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profl.bench.cli.imports import spare_imports
from profl.bench.cli.options import OneOf, several
from profl.bench.cli.own_step import given_beside
from profl.bench.cli.running import tell_strays
from profl.bench.cli.stopping import if_stopped
from profl.bench.cli.volume import progress_console, quiet_option, timed, verbose_option, written
from profl.bench.errors import InputError, choose, nearest, unknown

if TYPE_CHECKING:
    from profl.bench.report import View
    from profl.bench.results import Run


def _check_formats(context: click.Context, option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    from profl.bench.report.style import FORMATS

    for name in value:
        if name not in FORMATS:
            unknown("format", name, FORMATS)
    return value


def _read_width(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Return a width in inches."""
    from profl.bench.report.style import NARROWEST, WIDEST, WIDTHS

    if value is None:
        return None
    if value in WIDTHS:
        return WIDTHS[value]
    try:
        inches = float(value.removesuffix("in"))
    except ValueError:
        inches = 0.0
    if not NARROWEST <= inches <= WIDEST:
        sizes = f"{', '.join(WIDTHS)} or inches from {NARROWEST:g} to {WIDEST:g}, such as 3.5"
        raise InputError(f"width '{value}' cannot be drawn: {choose(nearest(value, WIDTHS), sizes)}")
    return inches


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder to write into.  [default: report/ in the last RUN]"
)
@click.option(
    "--highlight",
    metavar="METHOD",
    help="Method that stands out: bold, and before its rivals where no order is given.  [default: profl, where it was "
    "run]",
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
@several(
    "--method",
    "Show only this method; in the order given, and equal budgets are those of the methods shown.  [default: all]",
    metavar="METHOD",
)
@several("--label", "What a method is called: METHOD=LABEL.", metavar="ASSIGNMENT")
@click.option(
    "--style",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A TOML file with labels, colours and the order of methods, as docs/papers.md shows it.",
)
@several(
    "--format",
    "Of figures: png, svg or pdf. The page is written where svg is among them.  [default: png and svg]",
    metavar="FORMAT",
    callback=_check_formats,
)
@click.option(
    "--width",
    metavar="WIDTH",
    callback=_read_width,
    help="Of figures and LaTeX tables: column (3.33 inches), page (7 inches), or inches.  [default: 8.85]",
)
@click.option("--bare", is_flag=True, help="No titles and no notes: a paper's captions say what they say.")
@quiet_option
@verbose_option("Also say of each figure how long it took to draw.")
@if_stopped("the results are as they were, what was drawn may not be whole: run the same command to draw it")
def report(runs: tuple[Path, ...], output: Path | None, highlight: str | None, **chosen: Any) -> None:
    """Draw a run's figures, tables and page from its result files; compare several runs with the first.

    \b
    Examples:
      profl report results/default
      profl report results/mine --output figures/ --highlight heterofl
      profl report results/mine --versus fedavg --axis operations
      profl report results/mine --method profl --method heterofl --label heterofl="HeteroFL"
      profl report results/mine --output paper/ --format pdf --width column --bare --style paper.toml
      profl report results/torch-2.14 results/torch-2.15
    """
    from profl.bench.environment import mixture
    from profl.bench.report import closing_table, write_comparison, write_report
    from profl.bench.results import read_run
    from profl.bench.terminal import Terminal

    spare_imports()
    for run in runs:
        tell_strays(run)
    if len(runs) > 1:
        if of_one := given_beside(chosen):
            raise click.UsageError(
                f"{', '.join(of_one)}: for the report of one run; a comparison of several has none of it"
            )
        page = (output or runs[-1] / "report") / "comparison.html"
        written(write_comparison([read_run(run) for run in runs], page, highlight))
        return
    results = read_run(runs[0])
    trained = [record for record in results.records if not record.cell.memory_only]
    if mixed := mixture(environment for record in trained for environment in record.environments):
        click.echo(f"{runs[0]} holds cells trained by different arithmetic ({mixed}): its page has all", err=True)
    view = _view(results, highlight, **chosen)
    with progress_console().status("drawing") as status:

        def around(name: str) -> AbstractContextManager[None]:
            status.update(f"drawing {name}")
            return timed(name)

        paths = write_report(results, output, view, around)
    for path in paths:
        written(path)
    Terminal().print(closing_table(results, view))


def _view(
    run: Run,
    highlight: str | None,
    versus: str | None,
    axis: str,
    method: tuple[str, ...],
    label: tuple[str, ...],
    style: Path | None,
    format: tuple[str, ...],
    width: float | None,
    bare: bool,
) -> View:
    """Return how a run is to be shown; what the command line says of a method comes before what the file says."""
    from profl.bench.report import View
    from profl.bench.report.appearance import PLAIN, read_appearance, read_labels
    from profl.bench.report.contenders import contenders
    from profl.bench.report.style import README, Sheet

    names = contenders(run)
    appearance = read_appearance(style, names) if style else PLAIN
    labels = {**appearance.labels, **read_labels(label, names)}
    sheet = Sheet(width or README.width_inches, bare, format or README.formats)
    return View(highlight, versus, axis, method, replace(appearance, labels=labels), sheet)
