"""``profl compare``: two snapshots, two files of measured runs, or one of each."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@click.option("--device", type=int, help="Index of the GPU, of snapshots.  [default: the one with the highest peak]")
@click.option("--task", help="Only this task, of measured runs.  [default: all that are in both]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def compare(run: Path, other: Path, device: int | None, task: str | None, as_json: bool) -> None:
    """Compare two recorded steps: RUN and OTHER are each a file of 'profl measure --save', or PyTorch's snapshot.

    Compared are the peaks, what lives at them, and the allocations and releases in order. Nothing in the files is
    executed.

    \b
    Examples:
      profl compare card.pickle other-card.pickle
      profl compare card.json.gz virtual.json.gz
      profl compare card.pickle virtual.json.gz --task "full model"
      profl compare yesterday.pickle today.pickle --json > difference.json
    """
    from profl.bench.cli.against import print_comparison
    from profl.bench.memory.comparison.against import Comparison
    from profl.bench.memory.comparison.pairing import pairs, read_sides
    from profl.bench.terminal import Terminal

    sides = [read_sides(path, device, task) for path in (run, other)]
    compared = [(title, Comparison(one, its)) for title, one, its in pairs(*sides)]
    if as_json:
        found = [{"title": title, **comparison.to_dict()} for title, comparison in compared]
        click.echo(json.dumps({"run": str(run), "other": str(other), "comparisons": found}))
        return
    console = Terminal()
    for title, comparison in compared:
        print_comparison(console, title, comparison)
