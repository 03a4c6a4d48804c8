"""``-q`` and ``-v``: how much a command tells beside its results and errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from profl.bench.terminal import Terminal

Volume = Literal["quiet", "usual", "verbose"]

_KEY = "profl.volume"
"""Where the context of a command keeps it, for those below too."""


def _choose(volume: Volume) -> Callable[[click.Context, click.Parameter, bool], None]:
    def choose(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
        if given and context.meta.setdefault(_KEY, volume) != volume:
            raise click.UsageError("give either --quiet or --verbose")

    return choose


def _option(short: str, volume: Volume, flag: str, text: str) -> Callable[[Any], Any]:
    return click.option(short, flag, is_flag=True, expose_value=False, callback=_choose(volume), help=text)


quiet_option = _option("-q", "quiet", "--quiet", "Show no progress: results and errors alone.")
"""Option for nothing but results and errors."""


def verbose_option(text: str) -> Callable[[Any], Any]:
    """Return the option for more, which ``text`` tells."""
    return _option("-v", "verbose", "--verbose", text)


def volume() -> Volume:
    """Return how much the command that runs is to tell."""
    context = click.get_current_context(silent=True)
    chosen: Volume = context.meta.get(_KEY, "usual") if context else "usual"
    return chosen


def progress_console() -> Terminal:
    """Return the console for progress, on stderr; it is silent if the user wants that."""
    from profl.bench.terminal import Terminal

    return Terminal(stderr=True, quiet=volume() == "quiet")


def written(text: object) -> None:
    """Say on stdout what was written where; not if the command is to be quiet."""
    if volume() != "quiet":
        click.echo(text)


def detail(text: str) -> None:
    """Say on stderr what a verbose command tells, and another does not."""
    if volume() == "verbose":
        progress_console().print(text, highlight=False, soft_wrap=True)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Say of what is done in the block, if the command is verbose, how long it took."""
    began = time.monotonic()
    yield
    detail(f"{name}: {time.monotonic() - began:.1f} s")
