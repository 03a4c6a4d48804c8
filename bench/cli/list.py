"""``profl list``: the names that the other commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from profl.bench.cli.options import OneOf

if TYPE_CHECKING:
    from profl.bench.memory.gpu.profile import Profile


@click.command(name="list")
@click.argument(
    "kind",
    type=OneOf(["methods", "models", "datasets", "gpus", "presets", "techniques", "deviations", "cards"]),
    required=False,
)
def list_names(kind: str | None) -> None:
    """Show the names that the other commands take, and what they stand for.

    Of methods it shows what each does about memory, what shrinks on a weak device, and its source; "deviations" are
    how they differ from the published ones, "cards" all that they say of themselves, as Markdown. Without a kind it
    gives the names alone, at once.

    \b
    Examples:
      profl list
      profl list methods
      profl list gpus
      profl list techniques
      profl list deviations
    """
    from profl.bench.cli.names import NAMES

    if kind == "gpus":
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


def _memory_source(profile: Profile) -> str:
    """Return the page that states how much memory the GPU has."""
    return next((page for page, stated in profile.sources.items() if "totalGlobalMem" in stated), "source unknown")
