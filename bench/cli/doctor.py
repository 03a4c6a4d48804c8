"""``profl doctor``: what this machine can do."""

from __future__ import annotations

import click

from profl.bench.cli.exit_codes import Ended, ExitCode
from profl.bench.cli.volume import progress_console, quiet_option, timed, verbose_option


@click.command()
@quiet_option
@verbose_option("Also say of each part how long it took to look at.")
def doctor() -> None:
    """Say what this machine can do, and what is missing for the rest, part by part as each is looked at.

    \b
    Example:
      profl doctor
    """
    from profl.bench.doctor import examine
    from profl.bench.terminal import Terminal

    console, faults = Terminal(), 0
    with progress_console().status("looking at torch") as status:
        for check in examine():
            status.update(f"looking at {check.part}")
            with timed(check.part):
                finding = check.look()
            told = f"{finding.part:26}{finding.state}" + (f": {finding.remedy}" if finding.remedy else "")
            console.print(told, style="red" if finding.remedy else None, highlight=False, soft_wrap=True)
            faults += bool(finding.remedy)
    if faults:
        raise Ended(f"{faults} of these {'is' if faults == 1 else 'are'} missing or broken", ExitCode.FAILED)
