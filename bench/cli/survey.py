"""``profl survey``: many models on many GPUs, and our recorder beside others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from profl.bench.cli.options import available, several

RESULTS = Path("results/survey")
SHOWN = {
    "peak_requested_bytes": "requested",
    "peak_allocated_bytes": "allocated",
    "peak_reserved_bytes": "reserved",
    "least_budget_bytes": "least budget",
}
"""Columns of bytes that are printed, and their headings."""


@click.group()
def survey() -> None:
    """Check the numbers: many models on many GPUs, and other recorders beside ours.

    \b
    Examples:
      profl survey models --model resnet50 --gpu virtual:t4
      profl survey recorders
    """


@survey.command()
@several("--model", "Classifiers of torchvision.  [default: 24, of every family]")
@several("--gpu", "cuda, virtual:NAME or estimate:NAME.  [default: virtual h100, a100-80, t4, jetson-orin]")
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
    from profl.bench.survey.models import GPUS, MODELS, USUAL_PRECISIONS, entries, identity, missing
    from profl.bench.survey.models import survey as measure_all
    from profl.bench.survey.table import EntryRow, as_frame, errors, identity_of, read_table

    gpus = [available(name) for name in gpu or GPUS]
    wanted = entries(model or MODELS, gpus, precision or USUAL_PRECISIONS, batch_size, image_size)
    todo = missing(wanted, output)
    console, aside = Console(), Console(stderr=True)
    aside.print(f"{len(wanted)} entries, {len(wanted) - len(todo)} of them in {output} already", highlight=False)
    with Progress(console=aside, transient=True, disable=not aside.is_terminal) as bars:
        bar = bars.add_task("measuring", total=len(todo))

        def told(row: EntryRow) -> None:
            bars.advance(bar)
            result = f"failed: {row['failure']}" if "failure" in row else f"{row['seconds']:.1f} s"
            _line(aside, f"{_name(row)}: {result}")

        try:
            measure_all(todo, output, workers, told)
        except KeyboardInterrupt:
            _line(aside, f"stopped; what is measured is kept in {output}: run the same command to go on")
            raise SystemExit(130) from None
    asked = {identity(entry) for entry in wanted}
    table = as_frame(row for row in read_table(output) if identity_of(row) in asked)
    for name, part in table.groupby("gpu", sort=False):
        console.print(_peaks(f"{name}, batch {batch_size}, in MiB", part))
    compared = errors(table)
    if len(compared):
        console.print(_errors(compared))
    for caveat, part in table.groupby("caveats"):
        _line(console, f"careful with {len(part)} entries, such as {_name(part.iloc[0])}: {caveat}")
    failed = table[table["failure"].notna()]
    for _, row in failed.iterrows():
        _line(console, f"{_name(row)} failed: {row['failure']}")
    _line(
        console, f"{len(table)} entries, {len(failed)} failures, measured in {table['seconds'].sum():.0f} s: {output}"
    )
    if len(failed):
        raise SystemExit(1)


@survey.command()
@several("--subject", "Training steps to record, as the table names them.  [default: all]")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS / "recorders.csv",
    show_default=True,
    help="The table, as CSV.",
)
def recorders(subject: tuple[str, ...], output: Path) -> None:
    """Let several recorders of memory say the peak of the same training steps, and compare with the allocator.

    The allocator is PyTorch's own, on a virtual H100, with nothing recording. Every recorder works in a process of
    its own; seconds are those of the second time. Some need the CPU to train: this takes several minutes.

    \b
    Examples:
      profl survey recorders
      profl survey recorders --subject "resnet18, 8 x 224x224" --output mine.csv
    """
    from profl.bench.errors import unknown
    from profl.bench.survey.recorders import SUBJECTS, compare

    for name in subject:
        if name not in SUBJECTS:
            unknown("subject", name, SUBJECTS)
    chosen = {name: workload for name, workload in SUBJECTS.items() if not subject or name in subject}
    aside, console = Console(stderr=True), Console()
    table = compare(chosen, lambda name, recorder: _line(aside, f"{recorder} has recorded {name}"))
    output.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(output, index=False)
    for title, part in table.groupby("subject", sort=False):
        console.print(_recorded(str(title), part))
    for _, row in table[table["failure"].notna()].iterrows():
        _line(console, f"{row['recorder']} failed at {row['subject']}: {row['failure']}")
    _line(console, f"{len(table)} rows in {output}; an error is relative to what was asked of the allocator")


def _recorded(title: str, table: pd.DataFrame) -> Table:
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("recorder", no_wrap=True)
    for heading in ("peak in MiB", "error", "error to blocks", "seconds", "CPU step is longer"):
        shown.add_column(heading, justify="right")
    for _, row in table.iterrows():
        shown.add_row(
            row["recorder"],
            _known(row["peak_bytes"], lambda size: f"{size / 2**20:.1f}"),
            _known(row["error_to_requested"], lambda error: f"{error:+.2%}"),
            _known(row["error_to_allocated"], lambda error: f"{error:+.2%}"),
            _known(row["seconds"], lambda seconds: f"{seconds:.2f}"),
            _known(row["cpu_step_seconds"] / row["seconds"], lambda ratio: f"{ratio:.1f} x"),
        )
    return shown


def _name(row: Mapping[str, Any] | pd.Series) -> str:
    return f"{row['model']} on {row['gpu']}, {row['precision']}"


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _peaks(title: str, table: pd.DataFrame) -> Table:
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("model", "side", "precision"):
        shown.add_column(heading, no_wrap=True)
    for heading in (*SHOWN.values(), "seconds"):
        shown.add_column(heading, justify="right")
    for _, row in table.iterrows():
        sizes = (_known(row[name], lambda size: f"{size / 2**20:.0f}") for name in SHOWN)
        shown.add_row(row["model"], str(row["image_size"]), row["precision"], *sizes, f"{row['seconds']:.1f}")
    return shown


def _errors(table: pd.DataFrame) -> Table:
    shown = Table(title="estimate against measurement", box=box.SIMPLE_HEAD)
    for heading in ("model", "gpu", "precision"):
        shown.add_column(heading, no_wrap=True)
    for heading in SHOWN.values():
        shown.add_column(heading, justify="right")
    for _, row in table.iterrows():
        relative = (_known(row[name], lambda error: f"{error:+.1%}") for name in SHOWN)
        shown.add_row(row["model"], row["gpu"], row["precision"], *relative)
    return shown


def _known(value: Any, show: Callable[[Any], str]) -> str:
    return "?" if pd.isna(value) else show(value)
