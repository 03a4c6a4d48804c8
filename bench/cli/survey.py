"""``profl survey``: many models on many GPUs, and our recorder beside others."""

from __future__ import annotations

from pathlib import Path

import click

from profl.bench.cli.options import available, named, several

RESULTS = Path("results/survey")


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
    from rich.progress import Progress

    from profl.bench.cli.survey_output import errors_table, peaks_table, print_line, row_name
    from profl.bench.survey.models import GPUS, MODELS, USUAL_PRECISIONS, entries, identity, missing
    from profl.bench.survey.models import survey as measure_all
    from profl.bench.survey.table import EntryRow, as_frame, errors, identity_of, read_table
    from profl.bench.terminal import Terminal

    gpus = [available(name) for name in gpu or GPUS]
    wanted = entries(model or MODELS, gpus, precision or USUAL_PRECISIONS, batch_size, image_size)
    todo = missing(wanted, output)
    console, aside = Terminal(), Terminal(stderr=True)
    aside.print(f"{len(wanted)} entries, {len(wanted) - len(todo)} of them in {output} already", highlight=False)
    with Progress(console=aside, transient=True, disable=not aside.is_terminal) as bars:
        bar = bars.add_task("measuring", total=len(todo))

        def told(row: EntryRow) -> None:
            bars.advance(bar)
            result = f"failed: {row['failure']}" if "failure" in row else f"{row['seconds']:.1f} s"
            print_line(aside, f"{row_name(row)}: {result}")

        try:
            measure_all(todo, output, workers, told)
        except KeyboardInterrupt:
            print_line(aside, f"stopped; what is measured is kept in {output}: run the same command to go on")
            raise SystemExit(130) from None
    asked = {identity(entry) for entry in wanted}
    table = as_frame(row for row in read_table(output) if identity_of(row) in asked)
    for name, part in table.groupby("gpu", sort=False):
        console.print(peaks_table(f"{name}, batch {batch_size}, in MiB", part))
    compared = errors(table)
    if len(compared):
        console.print(errors_table(compared))
    for caveat, part in table.groupby("caveats"):
        print_line(console, f"careful with {len(part)} entries, such as {row_name(part.iloc[0])}: {caveat}")
    failed = table[table["failure"].notna()]
    for _, row in failed.iterrows():
        print_line(console, f"{row_name(row)} failed: {row['failure']}")
    print_line(
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
    from profl.bench.cli.survey_output import print_line, recorders_table
    from profl.bench.errors import unknown
    from profl.bench.survey.recorders import SUBJECTS, compare
    from profl.bench.terminal import Terminal

    for name in subject:
        if name not in SUBJECTS:
            unknown("subject", name, SUBJECTS)
    chosen = {name: workload for name, workload in SUBJECTS.items() if not subject or name in subject}
    aside, console = Terminal(stderr=True), Terminal()
    table = compare(chosen, lambda name, recorder: print_line(aside, f"{recorder} has recorded {name}"))
    output.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(output, index=False)
    for title, part in table.groupby("subject", sort=False):
        console.print(recorders_table(str(title), part))
    for _, row in table[table["failure"].notna()].iterrows():
        print_line(console, f"{row['recorder']} failed at {row['subject']}: {row['failure']}")
    print_line(console, f"{len(table)} rows in {output}; an error is relative to what was asked of the allocator")
