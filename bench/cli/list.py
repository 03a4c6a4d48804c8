"""``profl list``: the names that the other commands take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from profl.bench.cli.options import OneOf

if TYPE_CHECKING:
    from profl.bench.memory.gpu.profile import Profile


@click.command(name="list")
@click.argument(
    "kind",
    type=OneOf(["methods", "models", "datasets", "gpus", "presets", "techniques", "deviations", "cards"]),
    required=False,
    metavar="[KIND]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the names, or of a kind one object for each.")
def list_names(kind: str | None, as_json: bool) -> None:
    """Show the names that the other commands take, and what they stand for.

    Of methods it shows what each does about memory, what shrinks on a weak device, and its source; "deviations" are
    how they differ from the published ones, "cards" all that they say of themselves, as Markdown. The other kinds are
    models, datasets, gpus, presets and techniques. Without a kind it gives the names alone, at once, of methods,
    models, datasets, gpus and presets; techniques, deviations and cards are shown where they are asked for.

    \b
    Examples:
      profl list
      profl list methods
      profl list gpus
      profl list techniques
      profl list deviations
      profl list gpus --json | jq -r '.[].name'
    """
    from profl.bench.cli.names import NAMES

    if as_json:
        if kind == "cards":
            raise click.UsageError("cards are Markdown: leave out --json, or list methods and deviations with it")
        everything = {group: list(of_group()) for group, of_group in NAMES.items()}
        click.echo(json.dumps(_entries(kind) if kind else everything))
    elif kind == "gpus":
        from profl.bench.memory.gpu.profile import profiles

        click.echo("cuda: this machine's own")
        for profile in profiles():
            major, minor = profile.gpu.capability
            gpu = f"sm_{major}{minor} {profile.gpu.multiprocessors:4} SMs {profile.gpu.total_bytes / 2**30:7.2f} GiB"
            click.echo(f"{profile.name:26}{gpu} ({profile.memory_figure}), {profile.board}: {_memory_source(profile)}")
        click.echo("virtual:sm_XX: any supported compute capability; no board's convolution workspaces")
        click.echo("estimate:NAME: any of these virtual GPUs, estimated where nothing can run")
    elif kind == "techniques":
        from profl.bench.technique import NONE, WAYS

        click.echo(f"{NONE}: plain training; the others may be joined, as in checkpoint+micro-batch:4")
        for name, way in WAYS.items():
            click.echo(f"{name}{':' * bool(way.setting)}{way.setting}: {way.about}")
    elif kind == "methods":
        from profl.bench.cards import method_table
        from profl.bench.terminal import Terminal

        Terminal().print(method_table(NAMES["methods"]()), highlight=False)
    elif kind == "cards":
        from profl.bench.cards import page

        click.echo(page(NAMES["methods"]()), nl=False)
    elif kind == "deviations":
        from profl.bench.registry import method_class

        click.echo("| method | differs from what is published |\n|---|---|")
        for name in NAMES["methods"]():
            click.echo(f"| `{name}` | {' '.join(method_class(name).deviations) or 'in nothing that is known'} |")
    elif kind:
        click.echo("\n".join(NAMES[kind]()))
    else:
        for group, names in NAMES.items():
            click.echo(f"{group}: {', '.join(names())}")


def _entries(kind: str) -> list[dict[str, Any]]:
    """Return what there is to say of every name of a kind; unknown values are None."""
    from profl.bench.cli.names import NAMES

    match kind:
        case "gpus":
            from profl.bench.memory.gpu.profile import profiles

            return [{"name": "cuda"}, *map(_gpu_entry, profiles())]
        case "techniques":
            from profl.bench.technique import NONE, WAYS

            ways = [{"name": name, "setting": way.setting or None, "about": way.about} for name, way in WAYS.items()]
            return [{"name": NONE, "setting": None, "about": "plain training"}, *ways]
        case "methods" | "deviations":
            return [_method_entry(name, kind) for name in NAMES["methods"]()]
    return [{"name": name} for name in NAMES[kind]()]


def _gpu_entry(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "board": profile.board,
        "capability": profile.gpu.capability,
        "multiprocessors": profile.gpu.multiprocessors,
        "total_bytes": profile.gpu.total_bytes,
        "memory_figure": profile.memory_figure,
        "sources": list(profile.sources),
    }


def _method_entry(name: str, kind: str) -> dict[str, Any]:
    """Return what a method says of itself; of one that cannot be imported, why."""
    from profl.bench.errors import InputError
    from profl.bench.registry import method_class

    try:
        method = method_class(name)
    except InputError as error:
        return {"name": name, "error": str(error)}
    if kind == "deviations":
        return {"name": name, "deviations": list(method.deviations)}
    said = {key: getattr(method, key) or None for key in ("kind", "shrinks", "source")}
    return {"name": name, **said, "ignores_memory": method.ignores_memory}


def _memory_source(profile: Profile) -> str:
    """Return the page that states how much memory the GPU has."""
    return next((page for page, stated in profile.sources.items() if "totalGlobalMem" in stated), "source unknown")
