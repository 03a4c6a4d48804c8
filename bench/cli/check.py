"""``profl check``: memory regression."""

from __future__ import annotations

import os
from pathlib import Path

import click

REFERENCE = Path("results/reference")


@click.command()
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    default=REFERENCE,
    show_default=True,
    help="Folder of the committed memory numbers.",
)
@click.option("--update", is_flag=True, help="Accept the measured numbers: rewrite the reference.")
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the result to this file, as JUnit XML.")
def check(reference: Path, update: bool, junit: Path | None) -> None:
    """Compare every footprint of the default sweep with the reference, to the byte.

    Lists changed, added and missing entries and exits non-zero on any. In GitHub Actions each is also an annotation.

    \b
    Examples:
      profl check
      profl check --junit memory.xml
      profl check --update
    """
    from bench.config import presets, read_config
    from bench.memory.probe import Prober
    from bench.regression import (
        REFERENCE_FILE,
        compare,
        github_annotation,
        measure_all,
        read_reference,
        write_junit,
        write_reference,
    )

    config = read_config(presets()["default"])
    known = None if update and not (reference / REFERENCE_FILE).exists() else read_reference(reference)
    with Prober() as prober:
        measured = measure_all(config, prober)
    differences = compare(known, measured) if known else []
    for difference in differences:
        click.echo(difference)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            click.echo(github_annotation(difference))
    if junit:
        write_junit(junit, measured["metrics"], differences)
    if update:
        click.echo(f"{len(measured['metrics'])} entries in {write_reference(reference, measured, known)}")
    elif differences:
        raise click.ClickException(
            f"memory differs from {reference}: accept it with 'profl check --reference {reference} --update'"
        )
    else:
        click.echo(f"{len(measured['metrics'])} entries, all equal to {reference}")
