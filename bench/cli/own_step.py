"""``profl measure FILE.py:FUNCTION`` and ``profl fit FILE.py:FUNCTION``: a training step of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from click.core import ParameterSource

from profl.bench.cli.options import several

own_step = click.argument("build", required=False, metavar="[FILE.py:FUNCTION]")
"""Argument for the function that builds the step; none: the tasks of methods."""

arguments = several("--argument", "Of your FUNCTION, behind the device: NAME=VALUE.", metavar="ASSIGNMENT")
"""Option for what that function is given."""


def given_beside(flags: Iterable[str]) -> list[str]:
    """Return those of the options that the user gave, as written."""
    context = click.get_current_context()
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    return [names[flag] for flag in flags if context.get_parameter_source(flag) == ParameterSource.COMMANDLINE]


def check_own(build: str | None, argument: tuple[str, ...], of_tasks: Iterable[str]) -> None:
    """Refuse options of tasks beside a step of one's own, and the reverse.

    Raises
    ------
    click.UsageError
        If there are any.
    """
    if build is None:
        if argument:
            raise click.UsageError("--argument is for a step of your own: name its FILE.py:FUNCTION, or leave it out")
        return
    if told := given_beside(of_tasks):
        raise click.UsageError(f"{', '.join(told)} chooses tasks of methods, and {build} is a step: leave out either")


def own_arguments(argument: tuple[str, ...]) -> dict[str, Any]:
    """Read assignments such as ``layers=12``; values are TOML's, bare words are texts.

    Raises
    ------
    InputError
        If one is none, or assigns what another has assigned.
    """
    from profl.bench.config import read_value
    from profl.bench.errors import InputError

    values: dict[str, Any] = {}
    for text in argument:
        name, assigned, value = (part.strip() for part in text.partition("="))
        if not (assigned and name.isidentifier() and value):
            raise InputError(f"argument '{text}' is no assignment: write NAME=VALUE, as in layers=12")
        if name in values:
            raise InputError(f"argument '{name}' is given twice: give one value")
        values[name] = read_value(value)
    return values


def measure_own(
    build: str,
    argument: tuple[str, ...],
    gpu: str,
    plot: Path | None,
    snapshot: Path | None,
    trace: Path | None,
    peaks_under: Callable[[Path], dict[str, int]] | None,
    as_json: bool,
) -> None:
    """Measure a step of the user's, and print its footprint."""
    from profl.bench.memory.api import BuiltStep
    from profl.bench.memory.named import NamedBuild
    from profl.bench.memory.process.probe import Prober
    from profl.bench.memory.summary import mebibytes

    named = NamedBuild.parse(build, own_arguments(argument))
    file = f"{Path(named.module).stem}-{named.function}"
    with Prober() as prober, TemporaryDirectory() as scratch:
        folder = snapshot or (Path(scratch) if peaks_under else None)
        shot = _in(folder, f"{file}.pickle") if folder else None
        footprint = prober.measure(BuiltStep(named), gpu, timeline=True, snapshot=shot)
        replayed = peaks_under(shot) if peaks_under and shot else {}
    if plot:
        footprint.plot(_in(plot, f"{file}.png"))
    if trace:
        footprint.write_trace(_in(trace, f"{file}.json"))
    if as_json:
        click.echo(json.dumps({"gpu": gpu, **footprint.to_dict(attribution=True), **replayed}))
        return
    click.echo(footprint)
    for name, reserved_bytes in replayed.items():
        click.echo(f"{mebibytes(reserved_bytes)} {name}")


def fit_own(build: str, argument: tuple[str, ...], gpu: str, budgets: dict[int, str], most: int, as_json: bool) -> None:
    """Find the largest batch of a step of the user's in every budget, and print it."""
    from rich.console import Console

    from profl.bench.fit import Fit, fit_batches, fit_table, guarantee, step_at
    from profl.bench.memory.named import NamedBuild
    from profl.bench.memory.process.probe import Prober

    named = NamedBuild.parse(build, own_arguments(argument))
    with Prober() as prober:
        batches, least = fit_batches(lambda batch: step_at(named, batch), most, gpu, budgets, prober)
    found = Fit(Path(named.module).name, named.function, batches, least, operations_per_example=None)
    if as_json:
        click.echo(json.dumps({"gpu": gpu, "batch_size": most, "step": str(named), **found.to_dict()}))
        return
    console = Console()
    console.print(f"{named}, batches up to {most} in the memory of {gpu}", highlight=False, markup=False)
    console.print(fit_table([found], budgets, most))
    console.print(guarantee(most), highlight=False)


def _in(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
