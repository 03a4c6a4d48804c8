"""What several commands share: options, the tasks they choose, and a progress bar."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from profl.bench import instructions
from profl.bench.cli.volume import progress_console, timed
from profl.bench.errors import choose, nearest, unknown
from profl.bench.instructions import AVX2, INSTRUCTIONS

if TYPE_CHECKING:
    from profl.bench.config import Config
    from profl.bench.memory.process.probe import Prober
    from profl.bench.training import TrainingWorkload

T = TypeVar("T")


class OneOf(click.Choice[str]):
    """One of a few words; another is refused with the one that it nearly is."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        if value in self.choices:
            return str(value)
        words = list(map(str, self.choices))
        self.fail(f"unknown '{value}': {choose(nearest(str(value), words), ', '.join(words))}", parameter, context)


def several(flag: str, text: str, kind: Any = str, **more: Any) -> Callable[[Any], Any]:
    """Return an option that may be given several times."""
    return click.option(flag, multiple=True, type=kind, help=text + " May be repeated.", **more)


def named(kind: str) -> dict[str, Any]:
    """Return what an option takes whose values are the names that ``profl list KIND`` shows.

    A shell completes them, and one that is not known is refused before anything is imported; a GPU or a name with a
    colon (``resnet18:group``), which may be beside those of the list, only where it is looked up. A virtual GPU may be
    named without ``virtual:``.
    """

    def complete(context: click.Context, option: click.Parameter, incomplete: str) -> list[str]:
        from profl.bench.cli.names import NAMES

        return [name for name in NAMES[kind]() if name.startswith(incomplete)]

    def check(context: click.Context, option: click.Parameter, value: Any) -> Any:
        from profl.bench.cli.names import NAMES

        for name in value if isinstance(value, tuple) else (value,):
            if name is not None and ":" not in name and name not in (known := list(NAMES[kind]())):
                unknown(kind.removesuffix("s"), name, known)
        return value

    def spell_out(context: click.Context, option: click.Parameter, value: Any) -> Any:
        from profl.bench.memory.gpu.profile import spelled_out

        return tuple(map(spelled_out, value)) if isinstance(value, tuple) else value and spelled_out(value)

    return {"shell_complete": complete, "callback": spell_out if kind == "gpus" else check}


techniques = several(
    "--technique", "How steps save memory: none, checkpoint+micro-batch:4, ...: 'profl list techniques'."
)
"""Option for the techniques by which local steps save memory."""

knobs = several("--option", "A method's option: METHOD.NAME=VALUE, as in profl.pace=equal.", metavar="ASSIGNMENT")
"""Option for the options of methods."""


class Whole(click.ParamType):
    """A whole number within bounds, which are those of `profl.bench.cell`; refused by the option's own name."""

    name = "integer"

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or not self.least <= number <= self.most:
            self.fail(f"'{value}' is no whole number from {self.least} to {self.most}", parameter, context)
        return number


COUNT, WIDTH, SEED = Whole(1, 10**6), Whole(1, 4096), Whole(0, 2**63 - 1)


def task_options(methods: str, batch_size: int | None, batch_text: str) -> Callable[[Any], Any]:
    """Return the options that choose tasks to measure; the texts and the default say what a command does with them."""
    options = [
        several("--method", methods + "  [default: all]", **named("methods")),
        click.option(
            "--model",
            default="resnet18",
            show_default=True,
            help="The network; also torchvision:NAME, and with another normalisation NAME:group or NAME:static.",
            **named("models"),
        ),
        click.option("--width", type=WIDTH, default=64, show_default=True, help="Channels of its first stage."),
        click.option("--batch-size", type=COUNT, default=batch_size, show_default=True, help=batch_text),
        click.option(
            "--dataset",
            default="cifar10",
            show_default=True,
            help="Decides the number of classes.",
            **named("datasets"),
        ),
        click.option("--data", type=click.Path(), help="Folder of the dataset, for imagefolder."),
        click.option("--rounds", type=COUNT, default=1000, show_default=True, help="Round budget that schedules see."),
        knobs,
        techniques,
        click.option(
            "--gpu",
            default="virtual:h100",
            show_default=True,
            help="cuda, virtual:NAME or estimate:NAME.",
            **named("gpus"),
        ),
    ]

    return _with(options)


def _with(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Return a decorator that gives a command the options, in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


sweep_options = _with(
    [
        click.option(
            "--preset",
            help="A configuration that comes with profl: see 'profl list'.  [default: default]",
            **named("presets"),
        ),
        click.option("--config", type=click.Path(path_type=Path), help="A TOML file of your own instead of a preset."),
        several("--method", "Methods to run.", **named("methods")),
        several("--model", "Models to train.", **named("models")),
        several("--width", "Channels of the model's first stage.", WIDTH),
        several("--dataset", "Datasets.", **named("datasets")),
        several("--tier", "Memory tiers: 512MiB, 50%, 100..900MB, 20%..120% or a file."),
        several("--seed", "Seeds.", SEED),
        techniques,
        click.option("--rounds", type=COUNT, help="Round budget of every run."),
        knobs,
        click.option(
            "--partition",
            help="Who holds which data: iid, dirichlet:ALPHA, shards:N or natural (of users).",
        ),
        click.option("--batch-size", type=COUNT, help="Largest local batch."),
        click.option("--gpu", help="Where memory is measured: cuda, virtual:NAME or estimate:NAME.", **named("gpus")),
        click.option("--data", type=click.Path(), help="Folder of the dataset: imagefolder, cifar10, ..."),
    ]
)
"""Options that choose a sweep; `chosen_sweep` takes what they give."""

workers_option = click.option(
    "--workers", type=click.IntRange(1), help="Processes, one torch thread each.  [default: cores]"
)
"""Option for how many processes run a sweep."""

engine_options = _with(
    [
        click.option(
            "--engine",
            type=OneOf(("local", "ray")),
            default="local",
            show_default=True,
            help="Who runs the cells: processes of this machine, or a Ray cluster.",
        ),
        click.option(
            "--address",
            metavar="HOST:PORT",
            help="Head node of the Ray cluster.  [default: that of RAY_ADDRESS, or one on this machine]",
        ),
    ]
)
"""Options for who runs a sweep's cells; `profl.bench.cli.running.chosen_engine` takes what they give."""


class Part(click.ParamType):
    """Part ``i/n`` of a grid, counted from 1: every n-th cell from the i-th on."""

    name = "i/n"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> slice:
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"'{value}' is no part of a grid: give i/n with i from 1 to n, as in 1/8", parameter, context)
        return slice(int(found[1]) - 1, None, int(found[2]))


cells_option = click.option(
    "--cells",
    type=Part(),
    metavar="I/N",
    help="Only part I of N of the grid, for several machines that share --output; without a report.",
)
"""Option for a part of a sweep's cells, as a slice of them."""


def _choose_instructions(_context: click.Context, _parameter: click.Parameter, value: str) -> None:
    if notice := instructions.choose(value):
        click.echo(notice, err=True)


instructions_option = click.option(
    "--instructions",
    type=OneOf(INSTRUCTIONS),
    default=AVX2,
    show_default=True,
    expose_value=False,
    callback=_choose_instructions,  # while options are read: nothing has imported torch yet
    help="The processor's: avx2 gives the same bits on every x86-64, native on this kind alone.",
)
"""Option for which instructions of the processor training uses; whoever takes it need not do anything."""


class ChosenSweep(NamedTuple):
    """What `sweep_options` chose.

    Parameters
    ----------
    source
        Name of the preset or file.
    name
        For the folder of its run: the source, and what else was given.
    config
        The sweep, with what else was given.
    """

    source: str
    name: str
    config: Config


def chosen_sweep(preset: str | None, config: Path | None, **given: Any) -> ChosenSweep:
    """Return the sweep that `sweep_options` chose."""
    if preset and config:
        raise click.UsageError("give either --preset or --config")
    from profl.bench.config import GRID, override, read_config, read_options
    from profl.bench.presets import preset as preset_file
    from profl.bench.run_name import run_name

    config = config or preset_file(preset or "default")
    grid, options = {axis: given.pop(axis) for axis in GRID}, read_options(given.pop("option"))
    base = read_config(config)
    chosen = override(base, grid, options, **given)
    name = run_name(config.stem, base, chosen)
    if not chosen.memory_only:
        chosen = replace(chosen, gpu=available(chosen.gpu))
    return ChosenSweep(config.stem, name, chosen)


def chosen_workloads(
    method: tuple[str, ...],
    option: tuple[str, ...],
    technique: tuple[str, ...],
    rounds: int,
    batch_size: int,
    **shape: Any,
) -> list[TrainingWorkload]:
    """Return the steps that `task_options` chose, technique by technique of every method; none is none of them."""
    from profl.bench.cell import Cell, Recipe
    from profl.bench.config import read_options
    from profl.bench.experiment import Experiment
    from profl.bench.fleet import UNLIMITED
    from profl.bench.measuring import workloads
    from profl.bench.registry import method_class, method_options, methods
    from profl.bench.technique import NONE

    for name in method:
        method_class(name)  # a wrong name is told before what another method refuses
    options = read_options(option)
    for name, values in options.items():
        method_options(name, values)  # also of a method that is not among those chosen
    shape |= {"tier": UNLIMITED, "seed": 0, "recipe": Recipe(rounds=rounds, batch_size=batch_size)}
    cells = [
        Cell(method=name, options=options.get(name, {}), technique=text, **shape)
        for name in dict.fromkeys(method) or sorted(methods())
        for text in dict.fromkeys(technique) or (NONE,)
    ]
    return [step for cell in cells for step in workloads(Experiment.of(cell)).values()]


def available(gpu: str) -> str:
    """Return the GPU to measure on: this one, or its estimate where it cannot run, as a line on stderr then says."""
    from profl.bench.memory.estimate import best_available

    usable, notice = best_available(gpu)
    if notice is not None:
        click.echo(notice, err=True)
    return usable


def started_prober(gpu: str, ahead: bool = True) -> Prober:
    """Return what measures until the command ends; if ``ahead``, its process imports torch while this one does."""
    from profl.bench.memory.process.probe import GpuUnavailable, Prober

    prober = click.get_current_context().with_resource(Prober())
    if ahead:
        with suppress(GpuUnavailable):  # told by the first question, if there is any
            prober.start(gpu)
    return prober


def tracked(entries: Collection[T], text: str, name: Callable[[T], str] | None = None) -> Iterator[T]:
    """Yield the entries, with a progress bar on stderr if that is a terminal.

    With ``name``, a verbose command also says of each how long it took.
    """
    from rich.progress import track

    console = progress_console()
    for entry in track(entries, text, console=console, transient=True, disable=not console.is_terminal):
        with timed(name(entry)) if name else nullcontext():
            yield entry
