"""``profl runs``: the runs on this disk, and how to be rid of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from profl.bench.results.runs import Overview


class _ListIfNotTold(click.Group):
    """A group that lists where its first word is none of its commands: a folder, an option or nothing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListIfNotTold, options_metavar="", subcommand_metavar="[list] [FOLDER]... | rm RUN...")
def runs() -> None:
    """List the runs of sweeps, the last changed first: how far each is, what it took, and when; or remove some.

    \b
    Examples:
      profl runs
      profl runs results/ablations /shared/studies
      profl runs --json | jq -r 'select(.state != "done").path'
      profl runs rm results/run-smoke
    """


@runs.command(name="list")
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for every run.")
def list_runs(folders: tuple[Path, ...], as_json: bool) -> None:
    """List the runs in folders and below, by default in results/, the last changed first.

    Cells and rounds are those finished, of those of every grid that was run there; the time is that of the finished
    rounds, one after another, whatever ran side by side.

    \b
    Examples:
      profl runs list
      profl runs list /shared/studies --json
    """
    from profl.bench.results.json_files import as_json as text
    from profl.bench.results.runs import find_runs, newest_first, overview
    from profl.bench.validation import printable

    if not folders and not Path("results").is_dir():
        click.echo("no runs: there is no folder results here", err=True)
        return
    found = dict.fromkeys(run for folder in folders or [Path("results")] for run in find_runs(folder))
    told = newest_first(map(overview, found))
    if as_json:
        for one in told:
            click.echo(text({**asdict(one), "path": str(one.path)}))
        return
    if not found:
        click.echo(f"no runs in {', '.join(map(str, folders)) or 'results'}", err=True)
        return
    for line in (*_lines(told), *(one.damage for one in told if one.damage)):
        click.echo(printable(line))


def _lines(overviews: list[Overview]) -> Iterator[str]:
    """Yield a heading and a line a run; its name is last, so that a long one breaks nothing."""
    rows = [["state", "cells", "rounds", "time", "disk", "changed"], *map(_figures, overviews)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    names = ["run", *(str(one.path) for one in overviews)]
    for (state, *figures), name in zip(rows, names, strict=True):
        padded = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        yield "  ".join([state.ljust(widths[0]), *padded, name])


def _figures(one: Overview) -> list[str]:
    """Return state, cells, rounds, time, disk and when it was changed, for a person."""
    from profl.bench.cli.sweep_output import in_words
    from profl.bench.fleet import format_bytes

    changed = "?" if one.changed is None else datetime.fromtimestamp(one.changed).strftime("%Y-%m-%d %H:%M")
    known = ["?", "?", "?"]
    if one.hours is not None:
        known = [f"{one.done}/{one.cells}", f"{one.rounds}/{one.of_rounds}", in_words(one.hours)]
    return [one.state, *known, format_bytes(one.disk_bytes), changed]


@runs.command()
@click.argument("chosen", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--waiting", is_flag=True, help="Remove only cells that were never begun.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(chosen: tuple[Path, ...], waiting: bool, yes: bool) -> None:
    """Remove runs: their cells, with all results, and the report beside them.

    It asks first: an answer of no ends the command with 0 and removes nothing. All are looked at before any is removed.
    A run that a sweep is at, one with files that git knows, and a folder that
    is no run are refused. Whatever else lies in the folder stays.

    \b
    Examples:
      profl runs rm results/run-smoke
      profl runs rm --yes results/run-smoke results/run-default-width8
      profl runs rm --waiting results/run-smoke
    """
    from profl.bench.results.runs import check_removable, overview, remove, remove_waiting
    from profl.bench.validation import printable

    for run in chosen:
        check_removable(run)
    if waiting:
        for run in chosen:
            names = remove_waiting(run)
            told = f"removed {len(names)} cells that were never begun: {', '.join(names)}" if names else "no cell waits"
            click.echo(printable(f"{run}: {told}"), err=True)
        return
    for run in chosen:
        state, cells, rounds, time, disk, changed = _figures(overview(run))
        told = f"{run}: {state}, {cells} cells, {rounds} rounds in {time}, {disk}, changed {changed}"
        click.echo(printable(told), err=True)
    if not yes and not _confirmed(f"remove {'it' if len(chosen) == 1 else f'these {len(chosen)} runs'} for good?"):
        click.echo("nothing is removed", err=True)
        return
    for run in chosen:
        kept = remove(run)
        click.echo(printable(f"removed {run}"), err=True)
        if kept:
            more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
            click.echo(printable(f"kept in {run}: {', '.join(map(str, kept[:3]))}{more}, no part of a run"), err=True)


def _confirmed(question: str) -> bool:
    """Return what a person answers.

    Raises
    ------
    click.UsageError
        If nobody answers, as where there is no terminal.
    KeyboardInterrupt
        On Ctrl-C.
    """
    try:
        return click.confirm(question, err=True)
    except click.Abort as error:  # which hides the one of the two that it was
        click.echo(err=True)
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt("nothing is removed") from None
        raise click.UsageError(
            "nobody answers, and nothing is removed: give --yes to remove without a question"
        ) from None
