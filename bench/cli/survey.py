"""``profl survey``: many models on many GPUs, every method's tasks, and our recorder beside others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profl.bench.cli.exit_codes import ExitCode
from profl.bench.cli.imports import spare_imports
from profl.bench.cli.options import available, named, several
from profl.bench.cli.stopping import if_stopped
from profl.bench.cli.volume import detail, progress_console, quiet_option, verbose_option

if TYPE_CHECKING:
    import pandas as pd

    from profl.bench.survey.measuring import Entry
    from profl.bench.survey.table import Row, Table

RESULTS = Path("results/survey")
MEMORY_STUDY = Path("results/paper-memory")


@click.group()
def survey() -> None:
    """Check the numbers: many models on many GPUs, every method's tasks, and other recorders beside ours.

    \b
    Examples:
      profl survey models --model resnet50 --gpu virtual:t4
      profl survey methods --model resnet18 --batch-size 64
      profl survey recorders
    """


@survey.command()
@several("--model", "Classifiers of torchvision.  [default: 24, of every family]")
@several(
    "--gpu",
    "cuda, virtual:NAME or estimate:NAME.  [default: virtual h100, a100-80, t4, jetson-orin]",
    **named("gpus"),
)
@several("--precision", "float32, float16 or bfloat16.  [default: float32 and float16]")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Pictures in a batch.")
@click.option("--image-size", type=int, help="Their side in pixels.  [default: 224; 299 for inception_v3]")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="GPUs measured at a time.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS / "models.csv",
    show_default=True,
    help="The table, as CSV.",
)
@quiet_option
@verbose_option("Also say of each measurement its peak.")
def models(
    model: tuple[str, ...],
    gpu: tuple[str, ...],
    precision: tuple[str, ...],
    batch_size: int,
    image_size: int | None,
    workers: int,
    output: Path,
) -> None:
    """Measure a training step of torchvision's classifiers on several GPUs, one row for each.

    Least budgets are searched for too, which takes most of the time. Every row is written as soon as it is there:
    stop at any time, and the same command measures what is missing. What fails is a row with the reason.

    \b
    Examples:
      profl survey models
      profl survey models --model resnet50 --model vit_b_16 --gpu virtual:l4 --batch-size 32 --output mine.csv
      profl survey models --precision bfloat16 --gpu virtual:h100 --gpu estimate:h100
    """
    from profl.bench.cli.survey_output import errors_table, peaks_table, print_line, row_name
    from profl.bench.survey.models import GPUS, MODELS, TABLE, USUAL_PRECISIONS, entries, errors
    from profl.bench.terminal import Terminal

    spare_imports()
    gpus = [available(name) for name in gpu or GPUS]
    wanted = entries(model or MODELS, gpus, precision or USUAL_PRECISIONS, batch_size, image_size)
    table = _measured(wanted, TABLE, output, workers, row_name)
    console = Terminal()
    for name, part in table.groupby("gpu", sort=False):
        console.print(peaks_table(f"{name}, batch {batch_size}, in MiB", part))
    compared = errors(table)
    if len(compared):
        console.print(errors_table(compared))
    for caveat, part in table.groupby("caveats"):
        print_line(console, f"careful with {len(part)} entries, such as {row_name(part.iloc[0])}: {caveat}")
    _end(table, output, row_name)


def _measured(
    wanted: Sequence[Entry], table: Table, output: Path, workers: int, name_of: Callable[[Row], str]
) -> pd.DataFrame:
    """Measure what the table at ``output`` lacks of ``wanted``, with a bar; return their rows. Ends on Ctrl-C."""
    from rich.progress import Progress

    from profl.bench.cli.survey_output import print_line
    from profl.bench.survey.measuring import missing
    from profl.bench.survey.measuring import survey as measure_all

    todo, failed = missing(wanted, table, output), {}
    aside = progress_console()
    aside.print(f"{len(wanted)} measurements, {len(wanted) - len(todo)} of them in {output} already", highlight=False)
    kept = f"what is measured is kept in {output}: run the same command to go on"
    with if_stopped(kept), Progress(console=aside, transient=True, disable=not aside.is_terminal) as bars:
        bar = bars.add_task("measuring", total=len(todo))

        def told(row: Row) -> None:
            bars.advance(bar)
            if "failure" in row:
                failed[table.identity_of(row)] = row
            result = f"failed: {row['failure']}" if "failure" in row else f"{row['seconds']:.1f} s"
            if "failure" not in row and row["least_budget_bytes"]:
                result += f", with its least budget: {row['least_budget_bytes'] / 2**20:,.0f} MiB"
            print_line(aside, f"{name_of(row)}: {result}")
            if "failure" not in row:
                detail(f"{name_of(row)}: peak {row['peak_requested_bytes'] / 2**20:,.1f} MiB requested")

        measure_all(todo, table, output, workers, told)
    asked = {entry.identity for entry in wanted}
    known = {table.identity_of(row): row for row in table.read(output)}
    return table.frame(row for identity, row in (known | failed).items() if identity in asked)


def _end(table: pd.DataFrame, output: Path, name_of: Callable[[Any], str]) -> None:
    """Print what failed and how many entries there are; end with a bad status if any failed."""
    from profl.bench.cli.survey_output import print_line
    from profl.bench.terminal import Terminal

    console, failed = Terminal(), table[table["failure"].notna()]
    for _, row in failed.iterrows():
        print_line(console, f"{name_of(row)} failed: {row['failure']}")
    print_line(
        console, f"{len(table)} entries, {len(failed)} failures, measured in {table['seconds'].sum():.0f} s: {output}"
    )
    if len(failed):
        raise SystemExit(ExitCode.FAILED)


@survey.command()
@several("--method", "Methods.  [default: all]", **named("methods"))
@several(
    "--model", "Networks.  [default: resnet18, resnet34, vgg11_bn, vgg16_bn, vit, mobilenet_v2]", **named("models")
)
@click.option("--width", type=click.IntRange(1), help="Channels of the first stage.  [default: as published]")
@several("--batch-size", "Pictures in a batch.  [default: 64 and 128]", click.IntRange(1))
@several("--gpu", "cuda, virtual:NAME or estimate:NAME.  [default: virtual h100, jetson-orin]", **named("gpus"))
@several("--technique", "How steps save memory, for everything chosen.  [default: none; five, of a part]")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="GPUs measured at a time.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=MEMORY_STUDY / "methods.csv",
    show_default=True,
    help="The table, as CSV; figures and results.md are drawn beside it.",
)
@click.option("--draw-only", is_flag=True, help="Measure nothing: draw what the table holds.")
@quiet_option
@verbose_option("Also say of each measurement its peak.")
def methods(
    method: tuple[str, ...],
    model: tuple[str, ...],
    width: int | None,
    batch_size: tuple[int, ...],
    gpu: tuple[str, ...],
    technique: tuple[str, ...],
    workers: int,
    output: Path,
    draw_only: bool,
) -> None:
    """Measure every task of every method at the paper's scale, without training: one row for each.

    A row has the peaks, the operations and the traffic of a task, what it saves against plain training of the full
    model, and how many of the published fleet's devices (100..900 MB) hold it. Least budgets are searched for at batch
    64. By default techniques are those of FedAvg everywhere and those of all methods on ResNet18 and VGG11 at batch 64
    on the Jetson Orin. Every row is written as soon as it is there: stop at any time, and the same command measures
    what is missing. What fails is a row with the reason. In the end figures (PNG, SVG) and tables (Markdown) are drawn
    from the whole table.

    \b
    Examples:
      profl survey methods
      profl survey methods --draw-only
      profl survey methods --model resnet18 --batch-size 64 --gpu virtual:jetson-orin
      profl survey methods --method profl --model vit --technique none --technique checkpoint --output mine.csv
    """
    from profl.bench.cli.survey_output import print_line, task_name
    from profl.bench.errors import InputError
    from profl.bench.registry import methods as installed
    from profl.bench.survey.drawing import draw
    from profl.bench.survey.methods import BATCH_SIZES, GPUS, PUBLISHED_WIDTHS, SEARCHED_BATCH_SIZE, TABLE, entries
    from profl.bench.survey.summary import write_markdown
    from profl.bench.terminal import Terminal

    spare_imports()
    measured = None
    selection = {"--method": method, "--model": model, "--width": width, "--batch-size": batch_size, "--gpu": gpu}
    selection["--technique"] = technique
    if not draw_only:
        names, networks = method or sorted(installed()), model or tuple(PUBLISHED_WIDTHS)
        gpus = [available(name) for name in gpu or GPUS]
        wanted, refused = entries(names, networks, width, batch_size or BATCH_SIZES, gpus, technique)
        for reason in refused:
            print_line(progress_console(), f"left out: {reason}")
        if not any(entry.searched for entry in wanted):
            why = f"they are searched for in batches of {SEARCHED_BATCH_SIZE}"
            print_line(progress_console(), f"left out: least budgets and who can take part, as {why}")
        measured = _measured(wanted, TABLE, output, workers, task_name)
    elif chosen := [name for name, value in selection.items() if value]:
        raise InputError(f"--draw-only draws the whole table: leave out {' and '.join(chosen)}")
    elif not output.exists():
        raise InputError(f"there is no {output} to draw: measure first, without --draw-only")
    everything = TABLE.frame(TABLE.read(output))
    figures = draw(everything, output.parent)
    write_markdown(everything, output.parent / "results.md")
    print_line(Terminal(), f"{len(figures)} figures and results.md in {output.parent}")
    if measured is not None:
        _end(measured, output, task_name)


@survey.command()
@several("--subject", "Training steps to record, as the table names them.  [default: all]")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS / "recorders.csv",
    show_default=True,
    help="The table, as CSV.",
)
@quiet_option
@verbose_option("Also say of each how long it took.")
def recorders(subject: tuple[str, ...], output: Path) -> None:
    """Let several recorders of memory say the peak of the same training steps, and compare with the allocator.

    The allocator is PyTorch's own, on a virtual H100, with nothing recording. Every recorder works in a process of
    its own; seconds are those of the second time. Some need the CPU to train: this takes several minutes.

    \b
    Examples:
      profl survey recorders
      profl survey recorders --subject "resnet18, 8 x 224x224" --output mine.csv
    """
    from profl.bench.cli.survey_output import print_line, recorders_table
    from profl.bench.errors import unknown
    from profl.bench.files import check_writable, replacing
    from profl.bench.survey.recorders import SUBJECTS, compare
    from profl.bench.terminal import Terminal

    for name in subject:
        if name not in SUBJECTS:
            unknown("subject", name, SUBJECTS)
    chosen = {name: workload for name, workload in SUBJECTS.items() if not subject or name in subject}
    aside, console = progress_console(), Terminal()

    def told(subject: str, recorder: str, seconds: float | None) -> None:
        print_line(aside, f"{recorder} has recorded {subject}")
        if seconds is not None:
            detail(f"{recorder}, {subject}: {seconds:.2f} s")

    check_writable(output)
    table = compare(chosen, told)
    with replacing(output) as partial:
        table.to_csv(partial, index=False)
    for title, part in table.groupby("subject", sort=False):
        console.print(recorders_table(str(title), part))
    for _, row in table[table["failure"].notna()].iterrows():
        print_line(console, f"{row['recorder']} failed at {row['subject']}: {row['failure']}")
    print_line(console, f"{len(table)} rows in {output}; an error is relative to what was asked of the allocator")
