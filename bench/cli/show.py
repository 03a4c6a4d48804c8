"""``profl show``: what a snapshot of PyTorch's allocator tells."""

from __future__ import annotations

import json
from pathlib import Path

import click

from profl.bench.errors import InputError

_DRAWN = (".png", ".svg", ".pdf")


@click.command()
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="File for the timeline (.png, .svg, .pdf); of several GPUs one each.",
)
@click.option("--page", type=click.Path(path_type=Path), help="File for one HTML page that holds everything.")
@click.option("--replay", is_flag=True, help="Play the trace through the model of PyTorch's allocator.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def show(snapshot: Path, plot: Path | None, page: Path | None, replay: bool, as_json: bool) -> None:
    """Show what a SNAPSHOT tells that torch.cuda.memory._dump_snapshot wrote: the peak, when, and what lived then.

    Nothing in the file is executed, whoever wrote it. It may be gzipped, begin or end in mid-run, and hold several
    GPUs.

    \b
    Examples:
      profl show snapshot.pickle
      profl show snapshot.pickle --plot timeline.png --page snapshot.html
      profl show snapshot.pickle.gz --replay
      profl show snapshot.pickle --json > snapshot.json
    """
    from profl.bench.memory.snapshot import tables
    from profl.bench.memory.snapshot.history import TracedHistory
    from profl.bench.memory.snapshot.reading import read_snapshot
    from profl.bench.memory.snapshot.summary import summary, to_dict
    from profl.bench.terminal import Terminal

    if plot and plot.suffix not in _DRAWN:
        raise InputError(f"'{plot}' cannot be drawn to: choose a file that ends in {', '.join(_DRAWN)}")
    read = read_snapshot(snapshot)
    histories = [TracedHistory(device) for device in read.devices.values()]
    summaries = [summary(read, history, replay=replay) for history in histories]
    written = []
    if plot:
        from profl.bench.memory.snapshot.drawing import write_timelines

        written += write_timelines(read, histories, plot)
    if page:
        from profl.bench.memory.snapshot.page import write_page

        write_page(read, histories, summaries, page)
        written.append(page)
    if as_json:
        click.echo(json.dumps(to_dict(read, summaries)))
        return
    console = Terminal()
    for device in summaries:
        console.print(tables.heading(device), style="bold", highlight=False, markup=False, soft_wrap=True)
        for table in tables.tables(device):
            console.print(table)
        for line in tables.remarks(device):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not summaries:
        click.echo("nothing was allocated, and nothing happened")
    for path in written:
        click.echo(f"written to {path}")
