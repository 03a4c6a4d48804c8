"""``profl check``: memory regression."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from profl.bench.cli.exit_codes import Ended, ExitCode
from profl.bench.cli.imports import spare_imports
from profl.bench.cli.options import named, tracked
from profl.bench.cli.volume import quiet_option, verbose_option
from profl.bench.errors import InputError


@click.command()
@click.option(
    "--reference",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("results/reference"),
    show_default=True,
    help="Folder of the committed memory numbers, one JSON file for every sweep and GPU.",
)
@click.option("--update", is_flag=True, help="Accept the measured numbers: rewrite the references.")
@click.option(
    "--preset",
    help="With --update: make or rewrite the reference of this preset alone.",
    **named("presets"),
)
@click.option("--config", type=click.Path(path_type=Path), help="With --update: the same for a TOML file of your own.")
@click.option("--gpu", help="With --preset or --config: measure this GPU instead of the sweep's.", **named("gpus"))
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the result to this file, as JUnit XML.")
@quiet_option
@verbose_option("Also say of each entry how long it took to measure.")
def check(
    folder: Path, update: bool, preset: str | None, config: Path | None, gpu: str | None, junit: Path | None
) -> None:
    """Compare every committed footprint with what is measured now, to the byte.

    Lists changed, added and missing entries of every reference file and ends with 3 on any. In GitHub Actions each
    is also an annotation. What a tolerance of a file lets pass is counted.

    \b
    Examples:
      profl check
      profl check --junit memory.xml
      profl check --update
      profl check --update --preset default --gpu virtual:h100
      profl check --update --config my-study.toml --reference my-reference/
    """
    from profl.bench.memory.process.probe import Prober
    from profl.bench.reference import Sweep, read_reference, reference_files, write_reference
    from profl.bench.regression import ENVIRONMENT, compare, github_annotation, measure_all, verdict, write_junit

    spare_imports()
    chosen = preset is not None or config is not None
    if (chosen and not update) or (preset and config) or (gpu and not chosen):
        raise click.UsageError("--update takes one of --preset and --config, and with either --gpu; a check takes none")
    if chosen:
        sweep = Sweep.of(folder, preset, config, gpu)
        path = folder / sweep.file_name
        known_sweep, known = read_reference(path) if path.exists() else (sweep, None)
        if known_sweep != sweep:
            raise InputError(f"{path} is the reference of {known_sweep}, not of {sweep}: rename the TOML file")
        references = {path: (sweep, known)}
    else:
        references = {path: read_reference(path) for path in reference_files(folder)}
    sweeps = {path: sweep.read(folder) for path, (sweep, _) in references.items()}
    result = {}
    with Prober() as prober:
        for path, (sweep, known) in references.items():
            measured = measure_all(sweeps[path], prober, partial(_entries, text=path.name))
            differences = compare(known, measured) if known else []
            for difference in differences:
                if difference.fails or difference.entry == ENVIRONMENT:
                    click.echo(f"{path.name}: {difference}")
                if difference.fails and os.environ.get("GITHUB_ACTIONS") == "true":
                    click.echo(github_annotation(path, difference))
            if update:
                write_reference(path, sweep, measured, known)
            entries = measured["metrics"]
            told = verdict(known, measured, differences) if known and not update else f"{len(entries)} entries, written"
            click.echo(f"{path}: {told}")
            result[path.name] = (entries, differences)
    if junit:
        write_junit(junit, result)
    if not update and any(found.fails for _, differences in result.values() for found in differences):
        raise Ended(
            f"memory differs from {folder}: accept it with 'profl check --reference {folder} --update'",
            ExitCode.DIFFERENT,
        )


def _entries(names: list[str], text: str) -> Iterator[str]:
    return tracked(names, text, str)
