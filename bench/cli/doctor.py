"""``profl doctor``: what this machine can do."""

from __future__ import annotations

import click

from profl.bench.cli.exit_codes import ExitCode


@click.command()
def doctor() -> None:
    """Say what this machine can do, and what is missing for the rest.

    \b
    Example:
      profl doctor
    """
    from rich.table import Table

    from profl.bench.doctor import examine
    from profl.bench.terminal import Terminal

    table = Table("part", "state", "remedy", title="profl doctor")
    whole = True
    with Terminal(stderr=True).status("looking at torch") as status:
        for finding in examine():
            status.update(f"found {finding.part}, looking on")
            table.add_row(finding.part, finding.state, finding.remedy or "")
            whole = whole and not finding.remedy
    Terminal().print(table)
    if not whole:
        raise SystemExit(ExitCode.FAILED)
