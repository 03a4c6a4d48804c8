"""``profl measure FILE.py:FUNCTION`` and ``profl fit FILE.py:FUNCTION``: a training step of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from profl.bench.cli.imports import spare_imports
from profl.bench.cli.options import several, tracked
from profl.bench.cli.volume import detail

if TYPE_CHECKING:
    from profl.bench.memory.process.probe import Prober
    from profl.bench.operations import Counted

own_step = click.argument("build", required=False, metavar="[FILE.py:FUNCTION]")
"""Argument for the function that builds the step; none: the tasks of methods."""

arguments = several(
    "--argument",
    "Of your FUNCTION, behind the device: NAME=VALUE, a number, true, false, none or else a text.",
    metavar="ASSIGNMENT",
)
"""Option for what that function is given."""

CONSTANTS = {"True": True, "False": False, "None": None, "none": None}
"""What a value may be beside TOML's: as texts, all but an empty one are true."""


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
        batch = "; its batch is an argument: --argument batch_size=N" if "--batch-size" in told else ""
        raise click.UsageError(
            f"{', '.join(told)} chooses tasks of methods, and {build} is a step: leave out either{batch}"
        )


def own_arguments(argument: tuple[str, ...]) -> dict[str, Any]:
    """Read assignments such as ``layers=12``; values are TOML's or `CONSTANTS`, other bare words are texts.

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
        values[name] = CONSTANTS[value] if value in CONSTANTS else read_value(value)
    return values


def measure_own(
    build: str,
    argument: tuple[str, ...],
    gpu: str,
    prober: Prober,
    plot: Path | None,
    snapshot: Path | None,
    trace: Path | None,
    peaks_under: Callable[[Path], dict[str, int]] | None,
    as_json: bool,
) -> None:
    """Measure a step of the user's, and print its footprint."""
    from profl.bench.memory.api import BuiltStep
    from profl.bench.memory.named import NamedBuild
    from profl.bench.memory.summary import mebibytes
    from profl.bench.operations import Counted

    spare_imports()
    named = NamedBuild.parse(build, own_arguments(argument))
    file = f"{Path(named.module).stem}-{named.function}"
    with TemporaryDirectory() as scratch:
        folder = snapshot or (Path(scratch) if peaks_under else None)
        shot = _in(folder, f"{file}.pickle") if folder else None
        for step in tracked([BuiltStep(named)], "measuring", lambda step: step.key):
            footprint = prober.measure(step, gpu, timeline=True, snapshot=shot)
        operations, why_unknown = _operations(Counted(step), gpu, prober)
        replayed = peaks_under(shot) if peaks_under and shot else {}
    if plot:
        footprint.plot(_in(plot, f"{file}.png"))
    if trace:
        footprint.write_trace(_in(trace, f"{file}.json"))
    if as_json:
        told = {"gpu": gpu, "operations_per_step": operations, **footprint.to_dict(attribution=True), **replayed}
        click.echo(json.dumps(told))
        return
    click.echo(footprint)
    if why_unknown:
        click.echo(f"? operations in a step: {why_unknown}")
    if operations is not None:
        number = f"{operations / 1e9:,.2f} G" if operations >= 1e8 else f"{operations:,}"
        click.echo(f"{number} operations in a step: convolutions, matrix products and attention")
    for name, reserved_bytes in replayed.items():
        click.echo(f"{mebibytes(reserved_bytes)} {name}")


def fit_own(
    build: str,
    argument: tuple[str, ...],
    gpu: str,
    prober: Prober,
    budgets: dict[int, str],
    most: int | None,
    as_json: bool,
) -> None:
    """Find the largest batch of a step of the user's in every budget, and print it."""
    from profl.bench.errors import InputError
    from profl.bench.fit import Fit, fit_batches, fit_table, guarantee, step_at
    from profl.bench.memory.errors import OutOfMemory
    from profl.bench.memory.named import NamedBuild
    from profl.bench.operations import Counted
    from profl.bench.terminal import Terminal

    given = own_arguments(argument)
    if "batch_size" in given:
        raise InputError("argument 'batch_size' is what is looked for: leave it out, or give a cap by --batch-size")
    named = NamedBuild.parse(build, given)
    batches, least = fit_batches(lambda batch: step_at(named, batch), most, gpu, budgets, prober, tell_batch)
    largest = max(filter(None, batches.values()), default=1)
    operations, why_unknown = _operations(Counted(step_at(named, largest)), gpu, prober)
    caveats: tuple[str, ...] = ()
    with suppress(OutOfMemory):
        caveats = prober.measure(step_at(named, 1), gpu).caveats  # as it was measured for the least budget
    each = None if operations is None else round(operations / largest)
    found = Fit(Path(named.module).name, named.function, batches, least, each)
    if as_json:
        click.echo(json.dumps({"gpu": gpu, "batch_size": most, "step": str(named), **found.to_dict()}))
        return
    console = Terminal()
    console.print(f"{named}, {up_to(most)} in the memory of {gpu}", highlight=False, markup=False)
    console.print(fit_table([found], budgets, most))
    console.print(guarantee([found], most), highlight=False)
    if why_unknown:
        console.print(f"Operations: ?, {why_unknown}", highlight=False, markup=False, soft_wrap=True)
    for caveat in caveats:
        console.print(f"careful: {caveat}", highlight=False, soft_wrap=True)


def tell_batch(key: str, budget_bytes: int, fits: bool) -> None:
    """Say, if the command is verbose, how a batch of a step went that was tried in a budget."""
    from profl.bench.fleet import format_bytes

    detail(f"{key} {'runs' if fits else 'does not run'} in {format_bytes(budget_bytes)}")


def up_to(most: int | None) -> str:
    """Say which batches are tried."""
    return f"batches up to {most}" if most else "the largest batches"


def _operations(counted: Counted, gpu: str, prober: Prober) -> tuple[int | None, str]:
    """Return the operations of a step; None where they are not known, and why."""
    from profl.bench.errors import in_one_line
    from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed
    from profl.bench.memory.gpu.profile import ESTIMATE

    try:
        operations: int | None = prober.run(counted, gpu, lambda report: None)
    except (GpuUnavailable, MeasurementFailed) as error:
        if gpu.startswith(ESTIMATE):
            return None, "they are counted as a step runs, and on this GPU it is only estimated"
        return None, f"counting them failed ({in_one_line(error)})"
    if operations is None:
        return None, (
            "those of cuDNN's recurrent networks, products with a vector, Fourier transforms, other packages' kernels "
            "and CUDA graphs cannot be counted"
        )
    return operations, ""


def _in(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
