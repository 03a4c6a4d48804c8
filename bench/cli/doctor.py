"""``profl doctor``: what this machine can do."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table


@click.command()
def doctor() -> None:
    """Say what this machine can do, and what is missing for the rest.

    \b
    Example:
      profl doctor
    """
    from bench.doctor import examine

    table = Table("part", "state", "remedy", title="profl doctor")
    findings = examine()
    for finding in findings:
        table.add_row(finding.part, finding.state, finding.remedy or "")
    Console().print(table)
    if any(finding.remedy for finding in findings):
        raise SystemExit(1)
